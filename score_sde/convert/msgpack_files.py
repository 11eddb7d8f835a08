"""Flax checkpoints (`checkpoint_N`, msgpack): nested dictionaries with arrays.

Arrays are read as views of the mapped file.

The format is small enough to be read here (https://github.com/msgpack/msgpack/blob/master/spec.md),
which bounds memory by the bytes that are there: nothing is allocated by a declared size, and arrays
are not copied.
"""

import math
import mmap
import os
import struct
from typing import Any

import ml_dtypes
import numpy as np

from score_sde.errors import UserError

MAX_VALUES = (
    100_000  # keys and values together; the largest published checkpoints have less than 20,000
)
MAX_DEPTH = 64  # of dictionaries in dictionaries
MAX_TEXT = 200  # bytes of a name
MAX_AXES = 16  # of an array

_NAMES = (
    "float64",
    "float32",
    "float16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
)
DTYPES = {name: np.dtype(name) for name in (*_NAMES, "bool", "complex64", "complex128")}
DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
NDARRAY, COMPLEX, SCALAR = 1, 2, 3  # extension types of flax
CHUNKED = "__msgpack_chunked_array__"

# First byte -> struct code of the number behind it, or of the length of what is behind it.
_NUMBERS = dict(
    zip(range(0xCA, 0xD4), (">f", ">d", ">B", ">H", ">I", ">Q", ">b", ">h", ">i", ">q"))
)
_LENGTHS = {  # of bytes, extensions, text, arrays, maps
    **dict.fromkeys((0xC4, 0xC7, 0xD9), ">B"),
    **dict.fromkeys((0xC5, 0xC8, 0xDA, 0xDC, 0xDE), ">H"),
    **dict.fromkeys((0xC6, 0xC9, 0xDB, 0xDD, 0xDF), ">I"),
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


def read_msgpack(path: str | os.PathLike) -> dict[str, Any]:
    """The nested dictionary that `flax.training.checkpoints` or `flax.serialization` wrote.

    Arrays are read-only views of the mapped file, in the precision they are stored in; NumPy
    scalars are NumPy scalars. Arrays stored in chunks (above 1 GiB) are joined.

    Raises:
        UserError: the file asks for anything but dictionaries, lists, arrays, texts and numbers, or
            contradicts itself.
        Exception: others for damaged files; `score_sde.convert.read_file` turns all of them into a
            UserError.
    """
    with open(path, "rb") as file:
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    reader = _Reader(buffer, 0, len(buffer))
    tree = reader.value(0)
    if not isinstance(tree, dict):
        raise UserError(f"it holds a {type(tree).__name__}, not a dictionary of parameters")
    if reader.position != len(buffer):
        raise UserError(f"{len(buffer) - reader.position} bytes follow behind the content")
    return tree


class _Reader:
    """Reads values one after the other from `position` on, never beyond `stop`."""

    def __init__(self, buffer, position, stop):
        self.buffer, self.position, self.stop = buffer, position, stop
        self.values = 0

    def value(self, depth):
        """The next value, whatever it is."""
        self.values += 1
        if self.values > MAX_VALUES:
            raise UserError(f"it has more than {MAX_VALUES:,} entries: no checkpoint has")
        if depth > MAX_DEPTH:
            raise UserError(
                f"dictionaries are nested more than {MAX_DEPTH} deep: no checkpoint's are"
            )
        first = self.number(">B")
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 0x100
        if first < 0x90 or first in (0xDE, 0xDF):
            return self.dictionary(
                first & 0x0F if first < 0x90 else self.number(_LENGTHS[first]), depth
            )
        if first < 0xA0 or first in (0xDC, 0xDD):
            length = first & 0x0F if first < 0xA0 else self.number(_LENGTHS[first])
            return [self.value(depth + 1) for _ in range(length)]
        if first < 0xC0 or first in (0xD9, 0xDA, 0xDB):
            return self.text(first & 0x1F if first < 0xC0 else self.number(_LENGTHS[first]))
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _NUMBERS:
            return self.number(_NUMBERS[first])
        if first in (0xC7, 0xC8, 0xC9) or 0xD4 <= first <= 0xD8:
            length = 2 ** (first - 0xD4) if first >= 0xD4 else self.number(_LENGTHS[first])
            return self.extension(length)
        raise UserError(f"it has a value of kind 0x{first:02x}, which flax does not write")

    def number(self, code):
        """One number of a `struct` code."""
        start, stop = self.take(struct.calcsize(code))
        return struct.unpack(code, self.buffer[start:stop])[0]

    def take(self, length):
        """(first byte, byte behind the last) of the next ones."""
        start, stop = self.position, self.position + length
        if stop > self.stop:
            raise UserError(
                f"it is truncated: {length:,} bytes are announced, {self.stop - start:,} are left"
            )
        self.position = stop
        return start, stop

    def text(self, length):
        start, stop = self.take(length)
        if length > MAX_TEXT:
            raise UserError(f"it has a name of {length:,} bytes: no checkpoint has")
        return self.buffer[start:stop].decode("utf-8")

    def dictionary(self, length, depth):
        result = {}
        for _ in range(length):
            key = self.value(depth + 1)
            if not isinstance(key, str):
                raise UserError(f"a dictionary has a {type(key).__name__} as key, not a text")
            if key in result:
                raise UserError(f"a dictionary has the key {key[:100]!r} twice")
            result[key] = self.value(depth + 1)
        return _joined(result) if CHUNKED in result else result

    def extension(self, length):
        """An array, a NumPy scalar or a complex number, packed as msgpack themselves."""
        kind = self.number(">b")
        start, stop = self.take(length)
        packed = _Reader(self.buffer, start, stop)
        if kind in (NDARRAY, SCALAR):
            array = packed.array()
            result = array if kind == NDARRAY else array[()]
        elif kind == COMPLEX:
            real, imaginary = packed.value(MAX_DEPTH - 1)
            result = complex(float(real), float(imaginary))
        else:
            raise UserError(
                f"it has an extension of type {kind}; flax writes 1 (array), 2 (complex) and 3 "
                "(scalar)"
            )
        if packed.position != stop:
            raise UserError(
                f"an extension of type {kind} has {stop - packed.position:,} bytes too many"
            )
        return result

    def array(self):
        """[shape, name of the dtype, bytes]."""
        if self.number(">B") != 0x93:
            raise UserError("an array does not consist of shape, type and content")
        shape, name = self.value(MAX_DEPTH - 1), self.value(MAX_DEPTH)
        if name not in DTYPES:
            raise UserError(f"an array has the type {name!r:.100}; known are {', '.join(DTYPES)}")
        shape = _shape(shape)
        first = self.number(">B")
        if first not in (0xC4, 0xC5, 0xC6):
            raise UserError("an array's content is not a block of bytes")
        start, stop = self.take(self.number(_LENGTHS[first]))
        count = math.prod(shape)
        if stop - start != count * DTYPES[name].itemsize:
            raise UserError(f"an array of shape {shape} and type {name} has {stop - start:,} bytes")
        if count == 0:
            return np.empty(shape, DTYPES[name])
        little = DTYPES[name].newbyteorder(
            "<"
        )  # flax writes the machine's order, which has always been this one
        return np.frombuffer(self.buffer, little, count, start).reshape(shape)


def _shape(value):
    if (
        type(value) is not list
        or len(value) > MAX_AXES
        or any(type(n) is not int or n < 0 for n in value)
    ):
        raise UserError(f"an array's shape is not a list of at most {MAX_AXES} whole numbers")
    return tuple(value)


def _joined(chunked):
    """The array of {CHUNKED: True, shape: {"0": n, ...}, chunks: {"0": array, ...}}.

    The chunks are vectors of one type.
    """
    shape = _shape([chunked["shape"][str(axis)] for axis in range(len(chunked["shape"]))])
    chunks = [chunked["chunks"][str(i)] for i in range(len(chunked["chunks"]))]
    for chunk in chunks:
        # What is writeable is no view of the file: joined itself, and joining again would double
        # the memory each time.
        if chunk.ndim != 1 or chunk.dtype != chunks[0].dtype or chunk.flags.writeable:
            raise UserError("the chunks of an array are not vectors of one type")
    return np.concatenate(chunks).reshape(shape)
