"""A page in the browser over a folder of runs: sample, fill in, examine, reconstruct, compare."""

from pathlib import Path

from score_sde.app.server import serve


def main(runs: Path | None = None, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page until the process is stopped; see `score_sde.app.server.serve`."""
    serve(runs or Path("runs"), host, port)
