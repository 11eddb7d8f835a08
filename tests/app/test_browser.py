"""The page in a real Chromium: `pip install gradio playwright`, and a Chromium on PATH.

`SCORE_SDE_CHROMIUM` names another one. The server is a process of its own, on one device.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from golden import REPOSITORY

pytest.importorskip("gradio", reason='pip install "score_sde[app]"')
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = os.environ.get("SCORE_SDE_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; name one by SCORE_SDE_CHROMIUM"),
]
LONG = 600_000
"""Milliseconds that a compilation may take."""
WORD = "a long password"


class Server:
    """--mode app over a folder, as a process."""

    def __init__(self, folder: Path, *flags: str, **environment: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.flags = ("--runs", str(folder), "--port", str(self.port), *flags)
        quick = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu"}
        path = {"PYTHONPATH": str(REPOSITORY)}
        self.environment = os.environ | quick | path | environment
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, str(REPOSITORY / "main.py"), "--mode", "app", *self.flags]
        self.process = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdout is not None
        assert b"http://" in self.process.stdout.readline()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def status(self, path: str, **headers: str) -> int:
        """The code of an answer."""
        request = urllib.request.Request(f"{self.url}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    found = Server(folder)
    yield found
    found.kill()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def browser(chromium: Any) -> Iterator[Any]:
    """Chromium, whose pages are closed after each test."""
    yield chromium
    for context in chromium.contexts:
        context.close()


class Tab:
    """A page of a user of its own, with all that it asks for."""

    def __init__(self, browser: Any, server: Server, width: int = 1280):
        self.page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
        self.page.set_default_timeout(LONG)
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(server.url)
        self.page.wait_for_selector("#runs-table table")
        self.page.wait_for_function("document.querySelector('#about').innerText.includes('×')")
        if "8 × 8" in self.text("about") and "chain" not in self.run():
            return
        self.choose("run", "first")
        self.page.wait_for_timeout(2000)  # its choices take the place of those of the other run

    def run(self) -> str:
        return self.page.input_value("#run input")

    def text(self, name: str) -> str:
        return self.page.inner_text(f"#{name}")

    def open(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab).click()

    def choose(self, name: str, option: str) -> None:
        self.page.click(f"#{name} input")
        self.page.get_by_role("option", name=option, exact=True).click()

    def result(self, tab: str, has: str = "figure") -> str:
        """The text of a result once it is there."""
        self.page.wait_for_function(
            f"(() => {{ const e = document.querySelector('#{tab}-result');"
            f"return e && e.querySelector('{has}') && !e.querySelector('progress') }})()",
            timeout=LONG,
        )
        return self.text(f"{tab}-result")

    def sample(self, evaluations: int = 6, seed: int = 0) -> None:
        self.open("Sample")
        self.choose("sample-sampler", "DDIM")
        self.page.fill("#sample-evaluations input", str(evaluations))
        self.page.fill("#sample-seed input", str(seed))
        self.page.click("#sample-start")


def test_sample_and_what_the_page_loads(browser: Any, server: Server) -> None:
    tab = Tab(browser, server)
    tab.sample(seed=5)
    assert "16 samples of checkpoint 20 (6 evaluations each)" in tab.result("sample", "table")
    tab.page.wait_for_selector("#sample-past summary")
    assert "DDIM, 6 evaluations, seed 5" in tab.text("sample-past")
    begun = time.monotonic()
    tab.page.fill("#sample-seed input", "6")
    tab.page.click("#sample-start")
    tab.page.wait_for_function(
        "document.querySelector('#sample-past').innerText.includes('seed 6')", timeout=LONG
    )
    print(f"warm: {time.monotonic() - begun:.1f} s")
    hosts = {url.split("/")[2] for url in tab.asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {f"127.0.0.1:{server.port}"} and tab.errors == []


def test_a_painted_mask_is_filled_in(browser: Any, server: Server) -> None:
    tab = Tab(browser, server)
    tab.open("Fill in")
    tab.page.click("#fill-start")
    assert "No image is chosen" in tab.result("fill", ".error")
    tab.page.fill("#fill-number input", "7")
    tab.page.click("#fill-take")
    tab.page.wait_for_selector("canvas.paint")
    tab.page.click("#fill-start")
    tab.page.wait_for_function(
        "document.querySelector('#fill-result').innerText.includes('Nothing is painted')"
    )
    box = tab.page.locator("canvas.paint").bounding_box()
    x, y, side = box["x"], box["y"], box["width"] / 8
    tab.page.mouse.move(x + 2.5 * side, y + 4.5 * side)
    tab.page.mouse.down()
    tab.page.mouse.move(x + 5.5 * side, y + 4.5 * side, steps=5)
    tab.page.mouse.up()
    painted = tab.page.evaluate("window.paintedMask()")
    wanted = np.ones((8, 8), int)
    wanted[4, 2:6] = 0
    assert painted == "".join(map(str, wanted.ravel()))
    tab.page.click("#fill-start")
    assert "PSNR of the mean" in tab.result("fill", "table")


def test_uploads_and_wrong_files(browser: Any, server: Server, tmp_path: Path) -> None:
    tab = Tab(browser, server)
    tab.open("Examine")
    (tmp_path / "wrong.png").write_bytes(b"#!/bin/sh\nno image\n")
    bomb = Image.new("1", (12_000, 12_000))
    bomb.save(tmp_path / "bomb.png")
    Image.new("L", (9, 9), 128).save(tmp_path / "large.png")
    levels = np.rint(np.linspace(0, 16, 64)).astype(np.uint8).reshape(8, 8)
    Image.fromarray(np.rint(levels * (255 / 16)).astype(np.uint8)).save(tmp_path / "good.png")
    said = {"wrong": "not a readable image", "bomb": "more pixels", "large": "9 x 9 pixels"}
    for name, words in said.items():
        upload(tab, "examine", tmp_path / f"{name}.png")
        tab.page.wait_for_function(
            f"document.querySelector('#examine-image').innerText.includes('{words}')"
        )
        assert "Traceback" not in tab.text("examine-image")
    upload(tab, "examine", tmp_path / "good.png")
    tab.page.wait_for_selector("#examine-image img")
    tab.page.click("#examine-start")
    told = tab.result("examine", "table")
    assert re.search(r"\d\.\d{3} ± \d\.\d{3} bits/dim", told) and "1,437 training images" in told


def upload(tab: Tab, name: str, path: Path) -> None:
    """Choose a file as the button of a tab asks for it."""
    with tab.page.expect_file_chooser() as chooser:
        tab.page.click(f"#{name}-upload")
    chooser.value.set_files(path)


def test_two_users_at_once_and_stop(browser: Any, server: Server) -> None:
    one, two = Tab(browser, server), Tab(browser, server)
    one.sample(evaluations=3000, seed=11)
    one.page.wait_for_selector("#sample-result progress[value]", timeout=LONG)
    two.sample(evaluations=6, seed=12)
    two.page.wait_for_function(
        "document.querySelector('#sample-result').innerText.includes('Waiting: 1 piece')"
    )
    assert "of 2,999 steps" in one.text("sample-result")
    one.page.click("#sample-stop")
    one.page.wait_for_function(
        "document.querySelector('#sample-result').innerText.includes('Stopped')", timeout=LONG
    )
    assert "6 evaluations each" in two.result("sample", "table")
    two.page.wait_for_function(
        "document.querySelector('#sample-past').innerText.includes('seed 12')", timeout=LONG
    )
    assert "seed 11" not in two.text("sample-past")


def test_kill_and_restart_lose_nothing(browser: Any, server: Server) -> None:
    tab = Tab(browser, server)
    tab.sample(seed=21)
    tab.result("sample", "table")
    tab.sample(evaluations=3000, seed=22)
    tab.page.wait_for_selector("#sample-result progress[value]", timeout=LONG)
    server.kill()
    server.start()
    again = Tab(browser, server)
    again.open("Sample")
    again.page.wait_for_selector("#sample-past summary")
    lines = again.text("sample-past").splitlines()
    (killed,) = [line for line in lines if "seed 22" in line]
    assert "(not finished)" in killed
    assert any("seed 21" in line and "not finished" not in line for line in lines)
    again.page.click("#sample-past summary:has-text('seed 21')")
    image = again.page.locator("#sample-past details[open] img").first
    assert image.evaluate("image => image.naturalWidth") > 100


def test_no_file_is_served(server: Server, folder: Path) -> None:
    run = folder / "first" / "config.json"
    for path in (str(run), "/etc/passwd", f"{folder}/first/../first/config.json", "config.json"):
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/"):
            assert server.status(f"{route}{path}") in (403, 404, 405), (route, path)
    assert server.status("/static/../../../../../etc/passwd") in (400, 403, 404)
    assert server.status("/") == 200
    assert server.status("/", Host="evil.example") == 400


def test_a_password_is_needed_beyond_this_machine(browser: Any, folder: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "main.py"), "--mode", "app", "--host", "0.0.0.0"]
    plain = {name: value for name, value in os.environ.items() if name != "SCORE_SDE_PASSWORD"}
    done = subprocess.run(
        [*command, "--runs", str(folder)],
        env=plain | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "SCORE_SDE_PASSWORD" in done.stderr
    server = Server(folder, "--host", "0.0.0.0", SCORE_SDE_PASSWORD=WORD)
    try:
        assert server.status("/config") == 401
        assert server.status("/gradio_api/info") == 401
        page = browser.new_context().new_page()
        page.goto(server.url)
        assert not page.locator("#runs-table").count()
        fields = page.locator("input")
        fields.nth(0).fill("me")
        fields.nth(1).fill("wrong password")
        page.get_by_role("button", name="Login").click()
        page.get_by_text("Incorrect Credentials").wait_for()
        assert not page.locator("#runs-table").count()
        fields.nth(0).fill("me")
        fields.nth(1).fill(WORD)
        page.get_by_role("button", name="Login").click()
        page.wait_for_selector("#runs-table table", timeout=LONG)
    finally:
        server.kill()


def test_a_phone_sees_all_of_it(browser: Any, server: Server) -> None:
    tab = Tab(browser, server, width=390)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
