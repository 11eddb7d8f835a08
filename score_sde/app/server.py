"""Serve the page: to this machine alone, or to others with a password; nothing from a network."""

import asyncio
import hmac
import ipaddress
import os
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from score_sde import errors
from score_sde.app.device import Device
from score_sde.app.runs import Runs
from score_sde.devices import say
from score_sde.errors import UserError

PASSWORD = "SCORE_SDE_PASSWORD"
"""The environment variable with the password. A flag would show it in the list of processes."""
LEAST = 8
"""Characters of a password."""
WAIT = 1.0
"""Seconds from one password to the next, so that nobody tries many."""
LARGEST = "100mb"
"""Of an upload."""
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; frame-ancestors 'none'; form-action 'self'"
)
"""The browser loads from this server alone, whatever a page asks for."""
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_ALLOWED_PATHS": "",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""What Gradio and its parts read of the environment when they are imported."""


def serve(root: Path, host: str, port: int) -> None:
    """Serve the page until the process is stopped.

    Raises:
        UserError: no such folder, gradio is missing, another machine may connect and there is no
            password, or the port is in use.
    """
    if not root.is_dir():
        raise UserError(f"--runs {root} is no folder; name the folder that has the runs")
    password = password_for(host)
    check_free(host, port)
    os.environ.update(QUIET)
    gradio = errors.optional("gradio", "app", "--mode app")
    with tempfile.TemporaryDirectory(prefix="score_sde_app_") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        _serve(gradio, root, (host, port), password)


def _serve(gradio: Any, root: Path, address: tuple[str, int], password: str) -> None:
    from score_sde.app import markup, tabs  # they import gradio
    from score_sde.app.page import Page

    blocks = tabs.build_page(Page(Runs(root), Device()))
    host, port = address
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    blocks.queue(default_concurrency_limit=20, max_size=200, api_open=False)
    blocks.launch(
        share=False,
        inbrowser=False,
        server_name=host,
        server_port=port,
        auth=allowed(password) if password else None,
        auth_message=f"Any name, and the password of {PASSWORD}." if password else None,
        allowed_paths=[],
        max_file_size=LARGEST,
        state_session_capacity=100,
        app_kwargs={"middleware": middleware(host), "docs_url": None, "redoc_url": None},
        prevent_thread_lock=True,
        show_error=False,
        quiet=True,
        ssr_mode=False,
        mcp_server=False,
        footer_links=[],
        theme=gradio.themes.Default(**fonts),
        css=markup.STYLE,
        head=markup.SCRIPT,
    )
    shown = f"[{host}]" if ":" in host else host
    say(f"runs in {root}: http://{shown}:{port}  (Ctrl-C ends it)")
    sys.stdout.flush()  # into a file too
    try:
        threading.Event().wait()
    finally:
        blocks.close(verbose=False)


def password_for(host: str) -> str:
    """The password, "" for none.

    Raises:
        UserError: other machines may connect and there is none, or it is short.
    """
    password = os.environ.get(PASSWORD, "")
    if not password and not is_loopback(host):
        raise UserError(
            f"--host {host} lets other machines connect, so the page needs a password: set the "
            f"environment variable {PASSWORD}. Without --host the page is for this machine alone"
        )
    if password and len(password) < LEAST:
        raise UserError(
            f"the password in {PASSWORD} has {len(password)} characters; give it at least {LEAST}"
        )
    return password


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def allowed(password: str) -> Any:
    """(name, password) -> whether it may come in. It does not wait: all requests would wait too."""

    def check(name: str, given: str) -> bool:
        return hmac.compare_digest(given.encode(), password.encode())

    return check


def check_free(host: str, port: int) -> None:
    """Raises UserError where nothing can listen at this address."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, number, _, address = found[0]
        with socket.socket(family, kind, number) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port} cannot be listened at ({error.strerror or error}); take "
            "another port"
        ) from error


def middleware(host: str) -> list[Any]:
    """What all requests go through: the name they ask for, and the policy of all answers.

    On loopback another name than this machine's is refused: pages of the network could reach this
    one by a name of theirs that leads here.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    found = [Middleware(Policy), Middleware(SlowLogin)]
    if is_loopback(host):
        names = ["localhost", "127.0.0.1", "[::1]", host]
        found.append(Middleware(TrustedHostMiddleware, allowed_hosts=names))
    return found


class Policy:
    """ASGI: adds `POLICY` to all answers."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""

        async def policed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, receive, policed)


class SlowLogin:
    """ASGI: passwords are looked at one after another, `WAIT` seconds apart, from all browsers."""

    def __init__(self, app: Any):
        self.app, self.turn = app, asyncio.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["path"].rstrip("/").endswith("/login"):
            async with self.turn:
                await asyncio.sleep(WAIT)
        await self.app(scope, receive, send)
