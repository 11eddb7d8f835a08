"""Files are written whole or not at all; npz files are read without running anything in them.

Where writing fails, OSError comes through: `writing` makes a message for the user of it.
"""

import contextlib
import json
import math
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.errors import UserError

KINDS = {
    stat.S_ISDIR: "a folder, not a file",
    stat.S_ISFIFO: "a named pipe, not a file",
    stat.S_ISSOCK: "a socket, not a file",
    stat.S_ISCHR: "a device, not a file",
    stat.S_ISBLK: "a device, not a file",
}


def kind_of(path: Path) -> str:
    """What `path` is where it is no file that can be read to its end; "" for a file.

    Opening a pipe can wait for ever, and a device can have no end.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link to a file that does not exist" if path.is_symlink() else "missing"
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        return f"not to be read: {getattr(error, 'strerror', None) or error}"
    return next((text for test, text in KINDS.items() if test(mode)), "")


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write` with the name of a file beside `path`, then rename that file.

    Folders are made. Nothing is left where it fails.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_bytes(data))


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write JSON, whole or not at all; what is not known (nan) becomes null."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: clean(entry) for name, entry in value.items()}
        if isinstance(value, list | tuple):
            return [clean(entry) for entry in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    write_bytes(path, (json.dumps(clean(values), indent=2, allow_nan=False) + "\n").encode())


def write_npz(path: Path, arrays: dict[str, Any], compress: bool = True) -> None:
    """Write arrays as an npz file, whole or not at all."""
    save = np.savez_compressed if compress else np.savez

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # np.savez would add .npz to a name
            save(file, **arrays)

    write_whole(path, write)


@contextlib.contextmanager
def writing(place: Path, advice: str = "choose another folder with --output") -> Iterator[None]:
    """Raises UserError, with advice, where something in this context cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {place} ({error.strerror or error}); {advice}") from error


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an npz file, or those of `names` that are there.

    Raises UserError for what is no such file.
    """
    with opened(path) as file:
        return {name: file[name] for name in file.files if names is None or name in names}


def npz_names(path: Path) -> list[str]:
    """Names of the arrays in an npz file; raises UserError for what is no such file."""
    with opened(path) as file:
        return file.files


@contextlib.contextmanager
def opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """An npz file; raises UserError for whatever is wrong with it.

    That may show here, or where its arrays are read.
    """
    if not path.is_file():
        raise UserError(
            f"{path} {'is a folder, not an npz file' if path.is_dir() else 'does not exist'}"
        )
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
    except (
        OSError,
        ValueError,
        EOFError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} is no readable npz file: empty, damaged or cut off ({error})"
        ) from error
