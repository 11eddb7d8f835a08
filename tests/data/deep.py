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


def filtered(rows: np.ndarray, width: int) -> bytes:
    """Rows of bytes, `width` a pixel, by the five filters of PNG in turn."""
    left = np.pad(rows, ((0, 0), (width, 0)))[:, :-width]
    up = np.pad(rows, ((1, 0), (0, 0)))[:-1]
    corner = np.pad(left, ((1, 0), (0, 0)))[:-1]
    near = [np.abs(left + up - corner - one) for one in (left, up, corner)]
    paeth = np.where(
        (near[0] <= near[1]) & (near[0] <= near[2]), left, np.where(near[1] <= near[2], up, corner)
    )
    kinds = [0 * rows, left, up, (left + up) // 2, paeth]
    parts = [(rows - kind) % 256 for kind in kinds]
    return b"".join(
        bytes([y % 5]) + parts[y % 5][y].astype(np.uint8).tobytes() for y in range(len(rows))
    )


def png(path: Path, values: np.ndarray, *chunks: bytes, size: tuple[int, int] = (0, 0)) -> Path:
    """Values (h, w, c) of 16 bits. `size` (width, height) is a lie, (0, 0) for none."""
    height, width, channels = values.shape
    kind = PNG_KINDS[channels]
    header = struct.pack(">IIBBBBB", *(size if any(size) else (width, height)), 16, kind, 0, 0, 0)
    rows = np.frombuffer(values.astype(">u2").tobytes(), np.uint8).reshape(height, -1)
    data = filtered(rows.astype(int), 2 * channels)
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
