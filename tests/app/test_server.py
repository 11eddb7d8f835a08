"""Who may connect: addresses, passwords, ports. Without gradio, and what is said where it lacks."""

import asyncio
import socket
import sys
import time

import pytest
from commands import refused

from score_sde.app import server


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(server.PASSWORD, raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_needs_no_password(host: str) -> None:
    assert server.password_for(host) == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.4", "example.org"])
def test_other_machines_need_one(host: str, tmp_path, monkeypatch) -> None:
    refused(f"--host {host}.*{server.PASSWORD}", "app", runs=tmp_path, host=host)
    monkeypatch.setenv(server.PASSWORD, "short")
    refused("has 5 characters; give it at least 8", "app", runs=tmp_path, host=host)
    monkeypatch.setenv(server.PASSWORD, "long enough")
    assert server.password_for(host) == "long enough"
    check = server.allowed("long enough")
    assert check("any", "long enough") and not check("any", "long enougH")


def test_passwords_come_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "WAIT", 0.1)
    order: list[str] = []

    async def answer(scope, receive, send) -> None:
        order.append(scope["path"])

    async def ask() -> float:
        app = server.SlowLogin(answer)
        paths = ("/login", "/gradio_api/login/", "/", "/config")
        begun = time.monotonic()
        await asyncio.gather(*(app({"type": "http", "path": p}, None, None) for p in paths))
        return time.monotonic() - begun

    assert asyncio.run(ask()) > 0.19
    assert order[:2] == ["/", "/config"] and set(order[2:]) == {"/login", "/gradio_api/login/"}


def test_wrong_calls(tmp_path, monkeypatch) -> None:
    refused("no folder", "app", runs=tmp_path / "none")
    for port in ("0", "70000", "x"):
        refused(f"--port .*{port}", "app", runs=tmp_path, port=port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(f"--port {port} cannot be listened at", "app", runs=tmp_path, port=port)
    monkeypatch.setitem(sys.modules, "gradio", None)
    refused(r"needs the package gradio.*score_sde\[app\]", "app", runs=tmp_path, port=port)


def test_gradio_is_imported_by_the_mode_alone() -> None:
    import score_sde.modes.app  # noqa: F401

    loaded = {name for name in sys.modules if name.startswith("score_sde.app.")}
    assert not loaded & {"score_sde.app.page", "score_sde.app.tabs"}
