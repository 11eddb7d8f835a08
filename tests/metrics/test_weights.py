"""Fetching a file of weights: whole and the published one, or an error.

The error says what to do and leaves nothing behind.
"""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from score_sde.errors import UserError
from score_sde.metrics import weights

CONTENT = bytes(range(256)) * 5000  # more than one chunk
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Answers every request by `behaviour` and counts them."""

    behaviour = "good"
    requests = 0
    released: threading.Event
    """Lets go of a request that is kept waiting."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.requests += 1
        match self.server.behaviour:
            case "missing":
                self.send_error(404)
            case "other":
                self.answer(CONTENT[1:], len(CONTENT) - 1)
            case "truncated":
                self.answer(CONTENT[:-1000], len(CONTENT))
            case "truncated chunks":
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"%x\r\n%s\r\n" % (1000, CONTENT[:1000]))
            case "no HTTP":
                self.wfile.write(b"hello\r\n\r\n")
            case "silent":
                self.answer(CONTENT[:1000], len(CONTENT))
                self.wfile.flush()
                self.server.released.wait(20)
            case _:
                self.answer(CONTENT, len(CONTENT))

    def answer(self, content: bytes, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.released = threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(weights, "ADDRESS", f"http://127.0.0.1:{server.server_port}/{weights.NAME}")
    monkeypatch.setattr(weights, "PUBLISHED_PREFIX", CHECKSUM[:8])
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_second_call_does_not_fetch(server: Server, tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    for _ in range(2):
        path, checksum = weights.published(cache)
        assert (path, checksum) == (cache / weights.NAME, CHECKSUM)
        assert path.read_bytes() == CONTENT
    assert server.requests == 1
    assert list(cache.iterdir()) == [path]


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("missing", "the server answers 404 Not Found"),
        (
            "other",
            f"another file.*{hashlib.sha256(CONTENT[1:]).hexdigest()}.*begin with {CHECKSUM[:8]}",
        ),
        ("truncated", "broke off .*1000 more expected"),
        ("truncated chunks", "broke off"),
        ("no HTTP", "broke off .*BadStatusLine"),
        ("silent", "broke off .*[Tt]ime"),
    ],
)
def test_what_goes_wrong(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str, message: str
) -> None:
    """The error names address, place and option; nothing is left; afterwards it works."""
    monkeypatch.setattr(weights, "TIMEOUT", 0.3)
    server.behaviour = behaviour
    with pytest.raises(UserError, match=message) as caught:
        weights.published(tmp_path)
    for part in (
        weights.ADDRESS,
        str(tmp_path / weights.NAME),
        "--config.quality.weights",
        "--weights",
    ):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    server.behaviour = "good"
    assert weights.published(tmp_path)[1] == CHECKSUM


def test_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(weights, "ADDRESS", f"http://127.0.0.1:{port}/x")
    with pytest.raises(
        UserError, match=rf"no connection .*{port}/x by hand and put it at {tmp_path}"
    ):
        weights.published(tmp_path)


def test_a_damaged_file_in_the_cache(server: Server, tmp_path: Path) -> None:
    (tmp_path / weights.NAME).write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"is not the published file.*Delete it"):
        weights.published(tmp_path)
    assert server.requests == 0


def test_a_cache_that_cannot_be_written_to(server: Server, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=f"cannot be kept at {blocked}.*--config.quality.weights"):
        weights.published(blocked / "cache")


def test_what_is_published() -> None:
    """The name holds the checksum, and the cache is in the home folder."""
    assert weights.NAME.endswith(f"-{weights.PUBLISHED_PREFIX}.pth")
    assert weights.ADDRESS.endswith(f"/{weights.NAME}")
    assert weights.CACHE.expanduser() == Path.home() / ".cache" / "score_sde"
