"""Safetensors files, sound and hostile."""

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from score_sde.convert import read_file, write_safetensors
from score_sde.convert.published import recognize
from score_sde.errors import UserError


def crafted(path: Path, header: Any, data: bytes = b"\0" * 8) -> Path:
    """A file with any header: text or what becomes JSON."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def array(kind: str = "F32", shape: tuple = (2,), offsets: tuple = (0, 8)) -> dict:
    return {"dtype": kind, "shape": list(shape), "data_offsets": list(offsets)}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "a.weight": np.asfortranarray(rng.normal(size=(3, 4)).astype(np.float32)),
        "b": np.float32(2).reshape(()),
        "c": rng.normal(size=5).astype(np.float16),
        "d": rng.normal(size=5).astype(ml_dtypes.bfloat16),
    }
    write_safetensors(tmp_path / "sub" / "model.safetensors", arrays, {"step": "7"})
    container, (found, texts) = read_file(tmp_path / "sub" / "model.safetensors")
    assert (container, texts) == ("safetensors", {"step": "7"})
    assert found.keys() == arrays.keys()
    for name, expected in arrays.items():
        np.testing.assert_array_equal(found[name], expected, strict=True)
    with pytest.raises(UserError, match="name the folder that holds this one"):
        recognize(container, (found, texts))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": array(offsets=(0, 8)), "b": array(offsets=(4, 12))}, "damaged"),
        ({"a": array(shape=(1,), offsets=(4, 8))}, "damaged"),
        ({"a": array(shape=(10**12,), offsets=(0, 4 * 10**12))}, "damaged"),
        ({"a": array(shape=(3,))}, "damaged"),
        ({"a": array(shape=(-2,))}, "damaged"),
        ({"a": array(offsets=(8, 0))}, "damaged"),
        ({"a": array("I64", (1,))}, "a is of type I64; weights here are F64, F32, F16, BF16"),
        ({"a": array("F8_E5M2", (8,))}, "a is of type F8_E5M2"),
        ({"a": array("COMPLEX")}, "damaged"),
        ({"a": 5}, "damaged"),
        ({"__metadata__": {"step": 7}, "a": array()}, "damaged"),
        ('{"a": ' * 1000, "damaged"),
        ("{not JSON", "damaged"),
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, header: Any, message: str) -> None:
    path = crafted(tmp_path / "model.safetensors", header)
    with pytest.raises(UserError, match=rf"model\.safetensors.*{message}"):
        read_file(path)


@pytest.mark.parametrize("size", [0, 5, 8, 30, -1])
def test_truncated_files_are_refused(tmp_path: Path, size: int) -> None:
    path = crafted(tmp_path / "model.safetensors", {"a": array()})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        read_file(path)


@pytest.mark.parametrize("length", [2**31, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file_takes_no_memory(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"a": ')
    with pytest.raises(UserError, match=r"model\.safetensors"):
        read_file(path)
