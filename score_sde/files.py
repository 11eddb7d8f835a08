"""Files are written whole or not at all; npz files are read without running anything in them.

Where writing fails, OSError comes through: `writing` makes a message for the user of it.
"""

import contextlib
import json
import lzma
import math
import os
import re
import stat
import struct
import uuid
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
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
MOST_UNPACKED, LARGEST_RATIO = 2**30, 100
"""An npz file of more bytes than this is refused where it is so many times smaller: a bomb."""
HEADERS: dict[tuple[int, int], Callable[[Any], tuple[tuple[int, ...], bool, np.dtype]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
"""By the version of the npy format."""
END, MANY = 22, 0xFFFF
"""Bytes of the end of a zip file without comment; what it says where it has too many entries."""


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
    if stat.S_ISREG(mode):
        return ""
    return next((text for test, text in KINDS.items() if test(mode)), "")


def expect_file(path: Path) -> None:
    """Raises UserError where there is no file but a pipe, say: reading it could wait for ever."""
    if (kind := kind_of(path)) not in ("", "missing"):
        raise UserError(f"{path} is {kind}; move it away")


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write` with the name of a file beside `path`, then rename that file.

    Folders are made. Nothing is left where it fails.
    """
    # Numbers of processes are the same on several hosts, which may share a folder.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # some file systems say here alone that they are full
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_bytes(data))


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write JSON, whole or not at all; what is not known (nan) becomes null."""
    write_bytes(path, (json.dumps(_known(values), indent=2, allow_nan=False) + "\n").encode())


def as_read(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they are read again of what `write_json` writes: tuples become lists."""
    return json.loads(json.dumps(_known(dict(values)), allow_nan=False))


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _known(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_known(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_npz(path: Path, arrays: dict[str, Any], compress: bool = True) -> None:
    """Write arrays as an npz file, whole or not at all."""
    save = np.savez_compressed if compress else np.savez

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # np.savez would add .npz to a name
            save(file, **arrays)

    write_whole(path, write)


def checked_line(row: dict[str, Any]) -> str:
    """A row of a log as a line of JSON. The 32 blanks at its end are the CRC-32 of the others.

    A space is 0, a tab is 1: any reader of JSON lines finds the row alone.
    """
    text = json.dumps(row)
    return f"{text}{_blanks(text)}\n"


def _blanks(text: str) -> str:
    return f"{zlib.crc32(text.encode()):032b}".replace("0", " ").replace("1", "\t")


def checked_lines(path: Path, text: str) -> list[tuple[int, str]]:
    """(number of the line, text of a row) of the text of a log.

    Rows without a check come as their line is: older versions wrote none, and the last may be torn.
    A row may stand behind a torn one, or where an end of line is lost.

    Raises:
        UserError: a row is not as it was written.
    """
    found: list[tuple[int, str]] = []
    checked = re.search("[ \t]{15}", text)  # some row has a check, and that may be damaged
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        parts = re.split("([ \t]{32})", line)
        for row, check in zip(parts[:-1:2], parts[1::2], strict=True):
            alike = [part for part in (row, row[row.rfind("{") :]) if _blanks(part) == check]
            if not alike:
                raise _damaged(path, number, row)
            found.append((number, alike[0] + check))
        if len(parts) == 1 and line.strip("\0 \t\r"):
            if checked and number < len(lines) and not line.rstrip(" \t\r").endswith("}"):
                raise _damaged(path, number, line)
            found.append((number, line))
    return found


def _damaged(path: Path, number: int, line: str) -> UserError:
    return UserError(
        f"line {number} of {path} is not as it was written: {line[:60]!r}. Remove the line: the "
        "other rows stay"
    )


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
    check_npz(path)
    with reading(path), np.load(path, allow_pickle=False) as file:
        yield file


def check_npz(path: Path) -> None:
    """Raises UserError for what is no npz file, or holds other arrays than its headers promise.

    Only headers are read. So nothing can wait for ever, and no memory is taken for arrays of lying
    shapes, for more than this machine has, or for what unpacks to far more than the file.
    """
    if kind := kind_of(path):
        raise UserError(
            f"{path} does not exist" if kind == "missing" else f"{path} is {kind}: no npz file"
        )
    with reading(path):
        with path.open("rb") as start:
            first = start.read(6)
        if first == b"\x93NUMPY":
            raise ValueError("one array without a name; write it with np.savez")
        if not first.startswith(b"PK"):
            raise ValueError("it does not begin as one")
        with zipfile.ZipFile(path) as archive:
            packed = sum(entry.compress_size for entry in archive.infolist())
            size = sum(entry.file_size for entry in archive.infolist())
            if size > MOST_UNPACKED and size > LARGEST_RATIO * packed:
                raise ValueError(
                    f"{packed:,} bytes that unpack to {size:,}; write it anew with np.savez"
                )
            for entry in archive.infolist():
                _check_entry(archive, entry)
            check_count(path, len(archive.infolist()))


def _check_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Raises ValueError where an array is not as long as its header says, or of objects."""
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in HEADERS:
            raise ValueError(f"`{entry.filename}` has the unknown version {version}")
        shape, _, dtype = HEADERS[version](stream)
        header = stream.tell()
    if dtype.hasobject:
        raise ValueError(f"`{entry.filename}` holds Python objects")
    need = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or need != entry.file_size - header:
        raise ValueError(
            f"`{entry.filename}` says that it is {dtype} of shape {shape}, {need:,} bytes, but it "
            f"has {entry.file_size - header:,}"
        )
    if entry.compress_type != zipfile.ZIP_STORED and need > memory():
        raise ValueError(f"`{entry.filename}` needs {need:,} bytes, more than this machine has")


def memory() -> int:
    """Bytes of this machine's memory; where the system does not say, no bound."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63


def check_count(path: Path, found: int) -> None:
    """Raises ValueError where an npz file says in its end that it has other than `found` arrays."""
    with path.open("rb") as file:
        file.seek(-END, os.SEEK_END)
        end = file.read()
    written = int.from_bytes(end[10:12], "little")
    if end.startswith(b"PK\5\6") and written not in (found, MANY):
        raise ValueError(f"{written} arrays were written, and {found} are found")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Makes a UserError of whatever damaged npz files raise in this context."""
    try:
        yield
    except (
        *(OSError, ValueError, EOFError, TypeError, KeyError, OverflowError, MemoryError),
        *(RuntimeError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    ) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} is no readable npz file: empty, damaged or cut off ({error})"
        ) from error
