"""What the check of a large image folder found, kept on the disk between commands.

A file counts as unchanged while name, size and time of change are the same. The table belongs to
this version of the check and of Pillow, and is read only where its digest fits.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

import PIL

from score_sde.data import image_files
from score_sde.data.image_files import ScannedFile
from score_sde.files import write_bytes

FROM = 1_000
"""Files below a folder from which on a table is kept; fewer are checked in a moment."""
SETTLED = 2_000_000_000
"""Nanoseconds since its change after which a file is kept: some clocks of files are coarse."""

Listed = tuple[str, int, int]
"""(name relative to the folder, bytes, time of change in nanoseconds) of a file."""


def read_checked(root: Path) -> dict[Listed, ScannedFile]:
    """What is known of the files of a folder; {} where nothing is kept or the table is damaged."""
    try:
        head, _, body = _table(root).read_bytes().partition(b"\n")
        if head != _head(body):
            return {}
        return {
            (name, size, changed): ScannedFile(name, (rows[0], rows[1]), *rows[2:])
            for name, size, changed, *rows in json.loads(body)
        }
    except (OSError, ValueError, RuntimeError):  # no home folder
        return {}


def keep_checked(root: Path, found: Mapping[Listed, ScannedFile]) -> None:
    """Keep what the check found; without room or permission nothing, which costs time alone."""
    before = time.time_ns() - SETTLED
    rows = [
        (*listed, *file.size, *file[2:]) for listed, file in found.items() if listed[2] < before
    ]
    body = json.dumps(rows).encode()
    with contextlib.suppress(OSError, RuntimeError):
        write_bytes(_table(root), _head(body) + b"\n" + body)


def _table(root: Path) -> Path:
    name = hashlib.blake2b(str(root.resolve()).encode(errors="surrogateescape"), digest_size=16)
    return Path.home() / ".cache" / "score_sde" / "folders" / f"{name.hexdigest()}.json"


def _head(body: bytes) -> bytes:
    """Digest of the rows and of what made them."""
    made = Path(image_files.__file__).read_bytes() + PIL.__version__.encode()
    return hashlib.blake2b(made + body, digest_size=16).hexdigest().encode()
