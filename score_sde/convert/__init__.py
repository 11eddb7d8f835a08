"""Checkpoints of the published codes: reading, converting and writing them.

Nothing in them is executed.
"""

import os
from pathlib import Path
from typing import Any, Literal

from score_sde.convert.msgpack_files import read_msgpack
from score_sde.convert.safetensors_files import read_safetensors, write_safetensors
from score_sde.convert.torch_files import read_torch, write_torch
from score_sde.errors import UserError
from score_sde.files import kind_of

__all__ = [
    "read_file",
    "read_msgpack",
    "read_safetensors",
    "read_torch",
    "write_safetensors",
    "write_torch",
]

Container = Literal["zip", "pickle", "msgpack", "safetensors"]
_READERS = {
    "zip": read_torch,
    "pickle": read_torch,
    "msgpack": read_msgpack,
    "safetensors": read_safetensors,
}

_READABLE = "this reads PyTorch files (.pth), those of flax (checkpoint_N) and folders of diffusers"
# What files start with that are no checkpoints, and what to do then.
_FAMILIAR = {
    b"version https://git-lfs": "a git-lfs pointer, not the file; fetch the file by `git lfs pull`",
    b"\x1f\x8b": "a file compressed with gzip; unpack it first, say with `tar xzf` or `gunzip`",
    b"BZh": "a file compressed with bzip2; unpack it first, say with `tar xjf` or `bunzip2`",
    b"\xfd7zXZ": "a file compressed with xz; unpack it first, say with `tar xJf` or `unxz`",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it first",
    b"Rar!": "a rar archive; unpack it first",
    b"\x89HDF": f"an HDF5 file; {_READABLE}",
    b"\x93NUMPY": f"a NumPy array; {_READABLE}",
}


def read_file(path: str | os.PathLike) -> tuple[Container, Any]:
    """(container, content) of a published checkpoint.

    The container is recognized by the file's first bytes.

    "zip" and "pickle" are PyTorch's (`torch_files.py`), "msgpack" is flax's (`msgpack_files.py`),
    "safetensors" a pair of arrays and texts (`safetensors_files.py`).
    Nothing in the file is executed. Arrays are read-only views of the file, which must stay as it
    is while they are used.

    Raises:
        UserError: it is not such a file, or is damaged, truncated or hostile; the message says
            which.
    """
    path = Path(path)
    try:
        container = _recognize(path)
        return container, _READERS[container](path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (
        Exception
    ) as error:  # the one place where all that a damaged file can cause in the readers ends
        raise UserError(
            f"{path} is damaged or truncated ({type(error).__name__}: {error!s:.200})"
        ) from error


def _recognize(path: Path) -> Container:
    if path.is_dir():
        raise UserError(_folder(path))
    if (kind := kind_of(path)) not in ("", "missing"):
        raise UserError(f"it is {kind}; name the file")
    with open(path, "rb") as file:
        head = file.read(1024)
    if not head:
        raise UserError("an empty file; fetch it again")
    for start, advice in _FAMILIAR.items():
        if head.startswith(start):
            raise UserError(advice)
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(
            "a web page, not a checkpoint: the download gave a page (a warning, a log-in); open it "
            "in a browser"
        )
    if head[257:262] == b"ustar":
        raise UserError("a tar archive; unpack it first, say with `tar xf`")
    if head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < 2**32:
        return "safetensors"
    if head.startswith(b"PK"):
        return "zip"
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if _starts_dictionary(head):
        return "msgpack"
    if ".data-" in path.name or path.suffix in (".index", ".meta"):
        raise UserError(f"part of a TensorFlow checkpoint; {_READABLE}")
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        raise UserError("a text file, not a checkpoint")
    raise UserError(
        f"no file of PyTorch, flax or safetensors: it starts with the bytes {head[:8].hex(' ')}"
    )


def _starts_dictionary(head: bytes) -> bool:
    """Whether msgpack starts so with a dictionary and a text, its first key.

    Dictionaries are of up to 15, 2^16 or 2^32 entries.
    """
    behind = {0xDE: 3, 0xDF: 5}.get(head[0], 1 if 0x81 <= head[0] <= 0x8F else len(head))
    return behind < len(head) and (
        0xA0 <= head[behind] <= 0xBF or head[behind] in (0xD9, 0xDA, 0xDB)
    )


def _folder(path: Path) -> str:
    names = {entry.name for entry in path.iterdir()}
    if names & {"_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt", "checkpoints"}:
        return (
            "a folder of an Orbax checkpoint or a run of this library; use it as --workdir, "
            "without importing it"
        )
    if any(name.endswith(".index") or ".data-" in name for name in names):
        return f"a TensorFlow checkpoint; {_READABLE}"
    files = sorted(
        name for name in names if name.startswith("checkpoint") or name.endswith((".pth", ".pt"))
    )
    return f"a folder; name the file in it{', say ' + files[-1] if files else ''}"
