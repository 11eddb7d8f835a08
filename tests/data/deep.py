"""Image files of 16 bits a channel, which Pillow cannot write."""

import struct
import zlib
from pathlib import Path

import numpy as np

PNG_KINDS = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels -> colour type: grey, with alpha, RGB, with alpha."""


def chunk(name: bytes, data: bytes) -> bytes:
    """Of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(path: Path, values: np.ndarray, *chunks: bytes, size: tuple[int, int] = (0, 0)) -> Path:
    """Values (h, w, c) of 16 bits. `size` (width, height) is a lie, (0, 0) for none."""
    height, width, channels = values.shape
    kind = PNG_KINDS[channels]
    header = struct.pack(">IIBBBBB", *(size if any(size) else (width, height)), 16, kind, 0, 0, 0)
    rows = values.astype(">u2").reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *chunks]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join([*parts, chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]))
    return path


def tiff(path: Path, values: np.ndarray, order: str = "<", **tags: int | list[int]) -> Path:
    """Values (h, w, c), packed with zlib for `compression=8`; other tags by name."""
    height, width, channels = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    if tags.get("compression") == 8:
        data = zlib.compress(data)
    bits = values.dtype.itemsize * 8
    entries = {
        256: [width],
        257: [height],
        258: [bits] * channels,
        259: [1],
        262: [1 if channels == 1 else 2],
        273: [8],
        277: [channels],
        278: [height],
        279: [len(data)],
        339: [1] * channels,
    }
    if channels == 4:
        entries[338] = [2]
    numbers = {"compression": 259, "photometric": 262, "orientation": 274}
    numbers |= {"width": 256, "height": 257, "planar": 284, "format": 339, "bits": 258}
    entries |= {numbers[name]: np.atleast_1d(value).tolist() for name, value in tags.items()}
    place = 8 + len(data) + len(data) % 2
    after = place + 2 + 12 * len(entries) + 4
    directory, far = struct.pack(order + "H", len(entries)), b""
    for tag in sorted(entries):
        packed = struct.pack(f"{order}{len(entries[tag])}H", *entries[tag])
        directory += struct.pack(order + "HHI", tag, 3, len(entries[tag]))
        if len(packed) > 4:
            directory, far = directory + struct.pack(order + "I", after + len(far)), far + packed
        else:
            directory += packed.ljust(4, b"\0")
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(start + data.ljust(place - 8, b"\0") + directory + bytes(4) + far)
    return path
