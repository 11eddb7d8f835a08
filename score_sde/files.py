"""Files are written whole or not at all; npz files are read without running anything in them."""

import contextlib
import os
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.errors import UserError


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """`write(temporary)`, a file beside it, then a rename; folders are made, and nothing is left where it fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_npz(path: Path, arrays: dict[str, Any]) -> None:
    """Write arrays as an npz file, whole; raises UserError where that fails."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # np.savez would add .npz to a name
            np.savez(file, **arrays)

    try:
        write_whole(path, write)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}); name another place") from error


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an npz file, or those of `names` that are there; raises UserError for what is no such file."""
    with opened(path) as file:
        return {name: file[name] for name in file.files if names is None or name in names}


def npz_names(path: Path) -> list[str]:
    """Names of the arrays in an npz file; raises UserError for what is no such file."""
    with opened(path) as file:
        return file.files


@contextlib.contextmanager
def opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """An npz file; raises UserError for whatever is wrong with it, here or where its arrays are read."""
    if not path.is_file():
        raise UserError(f"{path} {'is a folder, not an npz file' if path.is_dir() else 'does not exist'}")
    with reading(path):
        with path.open("rb") as start:
            if not start.read(6).startswith((b"PK", b"\x93NUMPY")):
                raise ValueError("it does not begin as one")
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("one array without a name; write it with np.savez")
        with file:
            yield file


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Makes a UserError of whatever damaged npz files raise in this context."""
    try:
        yield
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no readable npz file: empty, damaged or cut off ({error})") from error
