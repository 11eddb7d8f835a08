"""PyTorch's files (`torch.save`): the zip container since 1.6 and the stream before it.

Both are read; the zip container is written.

Both hold one pickle, in which tensors refer to storages by a key, and the bytes of the storages.
Nothing in a file is executed (`pickles.py`), and sizes that the file declares are compared with
what is there before they are used.
"""

import collections
import functools
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from score_sde.convert.pickles import STORAGES, Pickle, Storage, Tensor, fill, read_pickle
from score_sde.errors import UserError
from score_sde.files import write_whole

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # the first pickle of the stream
PROTOCOL_VERSION = 1001  # the second
MAX_DIRECTORY = 2 * 2**20  # bytes of a zip file's table of contents: room for 20,000 storages
SHARING = (
    2  # tensors may overlap in their storages until they have this many times the file's bytes
)


def read_torch(path: str | os.PathLike) -> Any:
    """What `torch.save` wrote: containers with numpy arrays for tensors.

    The arrays are read-only views of the mapped file.

    Ordered dictionaries come as dict, NumPy scalars as Python numbers; devices and gradients are
    left out. Storages in big-endian order are copied into the machine's order.

    Raises:
        UserError: the file asks for anything but tensors, containers, texts and numbers, or
            contradicts itself.
        Exception: others for damaged files; `score_sde.convert.read_file` turns all of them into a
            UserError.
    """
    with open(path, "rb") as file:
        buffer = _Mapped(file.fileno(), 0, access=mmap.ACCESS_READ)
    if buffer[:4] == b"PK\x03\x04":
        pickle, arrays = _read_zip(buffer)
    else:
        pickle, arrays = _read_stream(buffer)
    return fill(pickle.value, _viewer(arrays, SHARING * len(buffer)))


class _Mapped(mmap.mmap):
    """A file in memory that refuses single reads of more than a table of contents.

    Slices are not limited.
    """

    def read(self, n=-1):
        available = len(self) - self.tell()
        if min(available if n is None or n < 0 else n, available) > MAX_DIRECTORY:
            raise UserError(
                f"the zip file's table of contents has more than {MAX_DIRECTORY:,} bytes"
            )
        return super().read(n)


def _read_zip(buffer: _Mapped) -> tuple[Pickle, dict[str, np.ndarray]]:
    entries = _entries(buffer)
    folder = next(name for name in entries if name.endswith("/data.pkl")).removesuffix("data.pkl")
    start, stop = entries[f"{folder}data.pkl"]
    pickle = read_pickle(buffer, start, stop)
    order = (
        buffer[slice(*entries[f"{folder}byteorder"])]
        if f"{folder}byteorder" in entries
        else b"little"
    )
    if order not in (b"little", b"big"):
        raise UserError(f"its byte order is {order[:20]!r}; known are little and big")
    arrays = {}
    for key, storage in pickle.storages.items():
        if f"{folder}data/{key}" not in entries:
            raise UserError(f"the storage {key[:100]!r} is missing")
        start, stop = entries[f"{folder}data/{key}"]
        if stop - start != storage.count * storage.dtype.itemsize:
            raise UserError(
                f"the storage {key[:100]!r} has {stop - start} bytes instead of {storage.count} x "
                f"{storage.dtype}"
            )
        arrays[key] = _array(buffer, storage, start, "<" if order == b"little" else ">")
    return pickle, arrays


def _entries(buffer: _Mapped) -> dict[str, tuple[int, int]]:
    """Name -> (first byte, byte behind the last) of each entry.

    All lie apart, uncompressed, with the right checksum. PyTorch can be told to write none
    (`set_crc32_options`): then all are 0, and nothing is compared.
    """
    with zipfile.ZipFile(buffer) as archive:  # type: ignore[call-overload]
        listed, end = (
            sorted(archive.infolist(), key=lambda entry: entry.header_offset),
            archive.start_dir,
        )
    names = [entry.filename for entry in listed]
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError("it is a TorchScript program (torch.jit.save), not a checkpoint")
    if sum(name.endswith("/data.pkl") for name in names) != 1:
        raise UserError(
            "it is a zip file, but not one of torch.save, which has one entry named data.pkl; if "
            "the checkpoint lies inside the zip file, unpack it first"
        )
    entries: dict[str, tuple[int, int]] = {}
    before, checked = 0, any(entry.CRC for entry in listed)
    for entry in listed:
        header = entry.header_offset
        if header < before or buffer[header : header + 4] != b"PK\x03\x04":
            raise UserError(
                "entries of the zip file overlap or are not where its table of contents says"
            )
        start = header + 30 + sum(struct.unpack_from("<HH", buffer, header + 26))
        stop = start + entry.file_size
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise UserError("the zip file is compressed, as torch.save never does; unpack it first")
        if entry.flag_bits & 1:
            raise UserError("the zip file is encrypted")
        if stop > end:
            raise UserError("the zip file is truncated")
        if entry.filename in entries:
            raise UserError(f"the zip file has two entries named {entry.filename[:100]!r}")
        if checked and zlib.crc32(memoryview(buffer)[start:stop]) != entry.CRC:
            raise UserError(
                f"the entry {entry.filename[:100]!r} is damaged (wrong checksum); fetch the file "
                "again"
            )
        entries[entry.filename] = (start, stop)
        before = stop
    return entries


def _read_stream(buffer: _Mapped) -> tuple[Pickle, dict[str, np.ndarray]]:
    """Five pickles, then count and data of each key.

    The pickles are magic number, version, the writer's machine, the content and the keys.

    The stream is little-endian on every machine.
    """
    magic = read_pickle(buffer)
    version = read_pickle(buffer, magic.end) if magic.value == MAGIC_NUMBER else None
    if version is None or version.value != PROTOCOL_VERSION:
        raise UserError(
            "it is a pickle, but not one of torch.save, whose files start with a magic number"
        )
    pickle = read_pickle(buffer, read_pickle(buffer, version.end).end)
    keys = read_pickle(buffer, pickle.end)
    position = keys.end
    arrays: dict[str, np.ndarray] = {}
    for key in keys.value:
        storage = pickle.storages[key]
        (count,) = struct.unpack_from("<q", buffer, position)
        if count != storage.count or key in arrays:
            raise UserError(
                f"the storage {key[:100]!r} has {count} numbers instead of {storage.count}, or "
                "comes twice"
            )
        arrays[key] = _array(buffer, storage, position + 8, "<")
        position += 8 + count * storage.dtype.itemsize
    if missing := pickle.storages.keys() - arrays.keys():
        raise UserError(f"{len(missing)} storages are missing")
    if position != len(buffer):
        raise UserError(f"{len(buffer) - position} bytes follow behind the last storage")
    return pickle, arrays


def _array(buffer: _Mapped, storage: Storage, start: int, order: Literal["<", ">"]) -> np.ndarray:
    if start + storage.count * storage.dtype.itemsize > len(buffer):
        raise UserError("the file is truncated: its last storages are missing")
    if storage.count == 0:
        return np.empty(0, storage.dtype)
    array = np.frombuffer(buffer, storage.dtype.newbyteorder(order), storage.count, start)
    return array.astype(storage.dtype, copy=False)


def _viewer(arrays: dict[str, np.ndarray], limit: int) -> Callable[[Tensor], np.ndarray]:
    """Tensor -> view of its storage. Equal tensors are one array.

    The bytes of all that are asked for must not exceed the limit, equal ones counted each time:
    whoever converts the content makes a copy of each.
    """
    total = 0

    @functools.cache
    def view(tensor: Tensor) -> np.ndarray:
        storage = arrays[tensor.storage.key]
        last = tensor.offset + sum(
            (n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides)
        )
        if tensor.size and (last >= storage.size or tensor.size > storage.size):
            raise UserError(
                f"a tensor of shape {tensor.shape} reaches beyond its storage of {storage.size} "
                "numbers, or repeats them"
            )
        if not tensor.size:
            return np.empty(tensor.shape, storage.dtype)
        size = storage.itemsize
        strides = tuple(stride * size for stride in tensor.strides)
        return np.ndarray(
            tensor.shape, storage.dtype, storage.view(np.uint8), tensor.offset * size, strides
        )

    def counted(tensor: Tensor) -> np.ndarray:
        nonlocal total
        array = view(tensor)
        total += array.nbytes
        if total > limit:
            raise UserError(
                "tensors share their storages so often that together they are larger than the file"
            )
        return array

    return counted


def write_torch(path: str | os.PathLike, tree: Any) -> None:
    """Write what `torch.save` would write (zip, protocol 2).

    These are dictionaries, lists, tuples, texts, numbers, None and arrays.

    Arrays become CPU tensors without gradient; `torch.load(path, weights_only=True)` reads the
    file. The file appears under its name when it is complete.

    Raises:
        UserError: the tree holds something else, or an array of a type that torch has no storage
            for.
    """
    content = _Writer()
    content.value(tree)

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            _add(archive, "data.pkl", b"\x80\x02" + b"".join(content.parts) + b".")
            _add(archive, "byteorder", b"little")
            for key, array in enumerate(content.arrays):
                _add(archive, f"data/{key}", array.reshape(-1).view(np.uint8).data)
            _add(archive, "version", b"3\n")

    write_whole(Path(path), write)


def _add(archive: zipfile.ZipFile, name: str, data: Any) -> None:
    """An entry of the folder `archive`, with a fixed date: the same tree gives the same bytes."""
    archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)


class _Writer:
    """The pickle's instructions (`parts`) and the arrays that go into storages."""

    def __init__(self):
        self.parts = []
        self.arrays = []

    def value(self, value):
        """Append the instructions that push one value.

        Those of containers contain their entries'.
        """
        match value:
            case None:
                self.parts.append(b"N")
            case bool():
                self.parts.append(b"\x88" if value else b"\x89")
            case int():
                self.parts.append(_integer(value))
            case float():
                self.parts.append(b"G" + struct.pack(">d", value))
            case str():
                text = value.encode("utf-8", "surrogatepass")
                self.parts.append(b"X" + struct.pack("<I", len(text)) + text)
            case dict():
                ordered = isinstance(value, collections.OrderedDict)
                self.parts.append(b"ccollections\nOrderedDict\n)R(" if ordered else b"}(")
                for key, item in value.items():
                    self.value(key)
                    self.value(item)
                self.parts.append(b"u")
            case list():
                self.parts.append(b"](")
                self.values(value)
                self.parts.append(b"e")
            case tuple():
                self.parts.append(b"(")
                self.values(value)
                self.parts.append(b"t")
            case np.ndarray():
                self.tensor(value)
            case _:
                raise UserError(
                    f"a PyTorch file cannot hold {value!r:.100} of type {type(value).__name__}"
                )

    def values(self, values):
        for value in values:
            self.value(value)

    def tensor(self, array):
        """_rebuild_tensor_v2(storage, 0, shape, strides, requires_grad, hooks).

        It is called with requires_grad=False and hooks=OrderedDict().
        """
        kind = array.dtype.newbyteorder("=")
        if kind not in _TYPES:
            known = ", ".join(map(str, _TYPES))
            raise UserError(
                f"a PyTorch file cannot hold an array of type {kind}; known are {known}"
            )
        array = array.astype(kind.newbyteorder("<"), order="C", copy=False)
        self.parts.append(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        self.value("storage")
        self.parts.append(f"ctorch\n{_TYPES[kind]}\n".encode())
        self.values([str(len(self.arrays)), "cpu", array.size])
        self.parts.append(b"tQ")
        self.values(
            [0, array.shape, tuple(stride // array.itemsize for stride in array.strides), False]
        )
        self.value(collections.OrderedDict())
        self.parts.append(b"tR")
        self.arrays.append(array)


_TYPES = {dtype: name for name, dtype in STORAGES.items()}


def _integer(value: int) -> bytes:
    if 0 <= value < 2**8:
        return b"K" + struct.pack("<B", value)
    if 0 <= value < 2**16:
        return b"M" + struct.pack("<H", value)
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    if -(2**63) <= value < 2**63:
        return b"\x8a\x08" + struct.pack("<q", value)
    raise UserError(f"a PyTorch file cannot hold the number {value}: 64 bits at most")
