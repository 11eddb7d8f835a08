"""Pickles read as data: what comes out of honest ones, and what is said of the others."""

import collections
import pickle
from typing import Any

import numpy as np
import pytest
from convert import crafted

from score_sde.convert.pickles import Storage, Tensor, fill, read_pickle
from score_sde.errors import UserError

TREE = {
    "text": "gamma γ 😀",
    "numbers": [
        0,
        1,
        255,
        256,
        65535,
        65536,
        -1,
        2**31 - 1,
        -(2**31),
        2**40,
        -(2**62),
        0.1,
        -1e300,
        float("inf"),
    ],
    "rest": (
        None,
        True,
        False,
        (),
        [],
        {},
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 3, 4),
        b"\x00\xff" * 10,
    ),
    "long": list(range(3000)),
    "repeated": ["a", "a", ("a", "b"), ("a", "b")],
    94107674247376: "old files name parameters by their addresses",
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_containers_of_every_protocol(protocol: int) -> None:
    ordered = collections.OrderedDict(b=1, a=collections.OrderedDict())
    content = pickle.dumps({**TREE, "ordered": ordered}, protocol)
    read = read_pickle(b"before" + content + b"behind", 6)
    assert read.value == {**TREE, "ordered": {"b": 1, "a": {}}} and read.end == 6 + len(content)
    assert list(read.value["ordered"]) == ["b", "a"] and type(read.value["ordered"]) is dict
    rest: Any = TREE["rest"]
    assert [type(item) for item in read.value["rest"]] == [type(item) for item in rest]
    assert fill(read.value, lambda tensor: np.zeros(0)) == read.value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_numbers(protocol: int) -> None:
    numbers = {
        "lr": np.float64(2e-4),
        "step": np.int64(-7),
        "flag": np.bool_(True),
        "big": np.dtype(">f8").type(0.5),
    }
    read = read_pickle(pickle.dumps(numbers, protocol)).value
    assert read == {"lr": 2e-4, "step": -7, "flag": True, "big": 0.5}
    assert [type(value) for value in read.values()] == [float, int, bool, float]


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@pytest.mark.parametrize(("order", "data"), [("<", "\0\0\0\0\0\0ø?"), (">", "?ø\0\0\0\0\0\0")])
def test_numpy_number_as_old_files_write_it(module: bytes, order: str, data: str) -> None:
    dtype = (
        b"cnumpy\ndtype\n("
        + crafted.text("f8")
        + b"\x89\x88tR(K\x03"
        + crafted.text(order)
        + b"NNNJ\xff\xff\xff\xffK\x00tb"
    )
    encoded = b"c_codecs\nencode\n(" + crafted.text(data) + crafted.text("latin1") + b"tR"
    content = crafted.PROTO + b"c" + module + b"\nscalar\n(" + dtype + encoded + b"tR."
    assert read_pickle(content).value == 1.5


@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors(protocol: int) -> None:
    array = np.arange(12.0).reshape(3, 4).T
    content, _ = crafted.torch_pickle({"a": array, "same": array}, protocol)
    read = read_pickle(content)
    expected = Tensor(Storage(np.dtype("f8"), "0", 12), 0, (4, 3), (1, 4))
    assert read.value == {"a": expected, "same": expected} and read.storages == {
        "0": expected.storage
    }
    filled = fill(read.value, lambda tensor: np.full(tensor.shape, tensor.size))
    assert filled["a"].shape == (4, 3) and (filled["same"] == 12).all()


def test_parameters_sizes_and_older_tensors() -> None:
    parameter = (
        b"ctorch._utils\n_rebuild_parameter\n("
        + crafted.tensor()
        + b"\x88"
        + crafted.ORDERED
        + b"tR"
    )
    old = (
        crafted.TENSOR.replace(b"_v2", b"")
        + b"("
        + crafted.storage(kind="HalfStorage", key="1")
        + b"K\x02K\x02\x85K\x03\x85tR"
    )
    size = b"ctorch\nSize\n" + crafted.sizes(1, 2) + b"\x85R"
    read = read_pickle(crafted.PROTO + b"(" + parameter + old + size + b"t.").value
    assert read[0] == Tensor(Storage(np.dtype("f4"), "0", 6), 0, (2, 3), (3, 1))
    assert read[1] == Tensor(Storage(np.dtype("f2"), "1", 6), 2, (2,), (3,)) and read[2] == (1, 2)


def test_notes_beside_a_state_dict_are_left_out() -> None:
    content = (
        crafted.PROTO
        + crafted.ORDERED
        + crafted.text("a")
        + b"K\x01s}"
        + crafted.text("_metadata")
        + b"}sb."
    )
    assert read_pickle(content).value == {"a": 1}


def test_a_high_number_of_memory_costs_nothing() -> None:
    content = (
        crafted.PROTO + b"}r\xff\xff\xff\x7f" + crafted.text("a") + b"j\xff\xff\xff\x7f" * 1 + b"s."
    )
    with pytest.raises(UserError, match="nested more than"):  # the dictionary in itself
        fill(read_pickle(content).value, lambda tensor: np.zeros(0))
    assert read_pickle(crafted.PROTO + b"]r\xff\xff\xff\x7f.").value == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "asks for os popen",
            "asks for os.popen: neither a tensor nor a container .* nothing was executed",
        ),
        ("asks for torch.storage _load_from_bytes", "asks for torch.storage._load_from_bytes"),
        (
            "inst of a known class",
            r"instruction INST \('collections OrderedDict'\).*nothing was executed",
        ),
        ("newobj", "asks for subprocess.Popen"),
        ("newobj of a known class", "instruction NEWOBJ.*nothing was executed"),
        ("extension 4", "instruction EXT4"),
        (
            "persistent id of a module",
            r"refers to \('module', 'torch.FloatStorage', 'a', ...\).*Save the state_dict",
        ),
        ("build of a class", "sets the state of a dict.*nothing was executed"),
        ("a storage called", "calls 'torch.FloatStorage', which is no function"),
        ("an object dtype", "number of type 'O'; known are f8"),
        ("two types of a storage", "describes its storage '0' in two ways"),
        ("negative shape", "a tensor has -2 where a size belongs"),
        ("many axes", "100 axes and 100 strides, at most 16"),
        ("protocol 0", "starts with MARK, not with a protocol"),
        ("protocol 9", "protocol 9; known are 2 to 5"),
        ("a huge number as key", "has the key a int"),
        ("long text encoded", "encodes a text of 100 characters"),
    ],
)
def test_messages(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_pickle(crafted.refused_pickles()[name])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a name as content", "holds 'torch.FloatStorage' where a checkpoint has tensors"),
        ("ten to the thirty", "more than 500,000 entries"),
        ("deep lists", "nested more than 32 deep"),
        ("a list in itself", "nested more than 32 deep"),
    ],
)
def test_messages_about_the_content(name: str, message: str) -> None:
    read = read_pickle(crafted.refused_pickles()[name])
    with pytest.raises(UserError, match=message):
        fill(read.value, lambda tensor: np.zeros(0))


def test_a_long_pickle_is_refused() -> None:
    content = crafted.PROTO + (b"X\x00\x00\x10\x00" + b"a" * 2**20 + b"0") * 8 + b"}."
    with pytest.raises(UserError, match="longer than 8,388,608 bytes"):
        read_pickle(content, 0, len(content))
    with pytest.raises(UserError, match="instruction POP"):
        read_pickle(content)
