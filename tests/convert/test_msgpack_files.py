"""Flax's checkpoints: read as flax itself reads them, and what is said of the others."""

from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert import crafted
from networks.published import listed

from golden import golden
from score_sde.convert import read_file, read_msgpack
from score_sde.errors import UserError

PUBLISHED = listed("*_jax/*/*", lambda name: not name.endswith((".json", ".npz", ".pth")))


def check(read: Any, made: Any) -> None:
    """The same tree with leaves of the same types, shapes and bytes."""
    if isinstance(made, dict):
        assert type(read) is dict and set(read) == set(made)
        for key in made:
            check(read[key], made[key])
    elif isinstance(made, (np.ndarray, np.generic)):
        assert type(read) is type(made) and read.dtype == made.dtype and read.shape == made.shape
        assert read.tobytes() == made.tobytes()
    else:
        assert type(read) is type(made) and read == made


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files(name: str) -> None:
    path = golden(f"nets/{name}")
    container, tree = read_file(path)
    assert container == "msgpack"
    check(tree, flax.serialization.msgpack_restore(path.read_bytes()))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_content(name: str) -> None:
    tree = read_msgpack(golden(f"nets/{name}"))
    if set(tree) == {"params"}:  # weights alone, in half precision
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype(np.float16)}
        return
    others = {"step", "optimizer", "lr", "ema_rate", "params_ema", "rng"}
    averages = {"ema_train_bpd", "ema_eval_bpd"} if "score_flow" in name else {"model_state"}
    assert set(tree) == others | averages
    assert tree["step"].dtype == np.int32
    assert tree["rng"].shape == (2,) and tree["rng"].dtype == np.uint32
    shapes = jax.tree.map(np.shape, tree["params_ema"])
    assert shapes == jax.tree.map(np.shape, tree["optimizer"]["target"])
    assert 0.9 < tree["ema_rate"] < 1


DTYPES = (
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
    "complex64",
    "complex128",
)


def everything() -> dict[str, Any]:
    """Something of everything that flax writes."""
    numbers = [
        0,
        1,
        127,
        128,
        255,
        256,
        65535,
        65536,
        2**32 - 1,
        2**32,
        2**64 - 1,
        -1,
        -32,
        -33,
        -128,
        -129,
        -(2**15),
        -(2**31),
        -(2**63),
    ]
    return {
        "arrays": {name: np.array([[0, 1, 1]]).astype(jnp.dtype(name)) for name in DTYPES},
        "scalars": {name: jnp.dtype(name).type(1) for name in DTYPES if name != "bfloat16"},
        "scalar array": np.array(2.5),
        "empty array": np.zeros((0, 3), np.float32),
        "sizes": {
            str(n): np.zeros(n, np.uint8) for n in (1, 2, 3, 5, 13, 14, 200, 255, 256, 300, 70_000)
        },
        "numbers": {str(n): n for n in numbers},
        "floats": {"a": 0.1, "b": float("-inf")},
        "others": {
            "none": None,
            "yes": True,
            "no": False,
            "text": "gamma γ",
            "long text": "a" * 200,
            "complex": 1 - 2j,
        },
        "list": [1, [2.0, "a"], []],
        "empty": {},
        "many": {f"layer_{i}": i for i in range(300)},
    }


def test_everything_that_flax_writes(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_1"
    data = flax.serialization.msgpack_serialize(everything())
    path.write_bytes(data)
    check(read_msgpack(path), flax.serialization.msgpack_restore(data))
    check(read_msgpack(path)["numbers"], everything()["numbers"])


def test_arrays_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 40)
    tree = {
        "params": {
            "kernel": np.arange(60, dtype=np.float32).reshape(3, 4, 5),
            "bias": np.arange(4.0),
        }
    }
    data = flax.serialization.msgpack_serialize(tree)
    assert b"__msgpack_chunked_array__" in data
    (tmp_path / "checkpoint_1").write_bytes(data)
    check(read_msgpack(tmp_path / "checkpoint_1"), tree)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("array of 2^32 entries", "truncated"),
        ("extension of 2^32 bytes", "4,294,967,295 bytes are announced, 3 are left"),
        ("a million lists deep", "nested more than 64 deep"),
        ("a million empty dictionaries", "more than 100,000 entries"),
        ("long names", "name of 65,535 bytes"),
        ("an unknown extension", "extension of type 42"),
        ("bytes", "kind 0xc4"),
        ("objects", "type 'object'; known are float64"),
        ("too much data", r"shape \(1,\) and type float32 has 8 bytes"),
        ("more behind an array", "extension of type 1 has 1 bytes too many"),
        ("more behind a complex number", "extension of type 2 has 1 bytes too many"),
        ("a complex number beyond its extension", "1 bytes are announced, 0 are left"),
        ("negative shape", "shape is not a list"),
        ("many axes", "shape is not a list of at most 16"),
        ("a key of another kind", "a int as key"),
        ("a key twice", "the key 'a' twice"),
        ("chunks of two types", "not vectors of one type"),
        ("chunks in chunks", "not vectors of one type"),
        ("more behind the end", "1 bytes follow"),
        ("chunks missing", "damaged or truncated"),
    ],
)
def test_messages(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / "checkpoint_1"
    path.write_bytes(crafted.refused_msgpacks()[name])
    with pytest.raises(UserError, match=message):
        read_file(path)
