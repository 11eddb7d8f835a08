"""PyTorch's two containers: the published files, crafted ones, and what is written here."""

import collections
import io
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from convert import crafted
from networks.published import arrays_of, config_of, listed

from golden import golden
from score_sde.convert import read_file, read_torch, write_torch
from score_sde.errors import UserError

PTH = listed("*/*/*.pth")


def _of(code: str) -> list[Any]:
    """The folders of one code's PyTorch files."""
    return listed(f"{code}/*/*.pth")


def _folder(name: str) -> str:
    return str(Path(name).parent)


def _container(path: Path) -> str:
    """By the first bytes: torch.save has written zip files since 1.6."""
    return "zip" if path.read_bytes()[:2] == b"PK" else "pickle"


@pytest.mark.parametrize("name", _of("score_sde_pytorch"))
def test_published_files_of_score_sde_pytorch(name: str) -> None:
    container, tree = read_file(golden(f"nets/{name}"))
    assert container == "zip" and list(tree) == ["optimizer", "model", "ema", "step"]
    assert type(tree["step"]) is int and tree["step"] == tree["ema"]["num_updates"]
    model, config = tree["model"], config_of(_folder(name))["model"]
    assert next(iter(model)) == "module.sigmas"
    assert all(key.startswith("module.") for key in model)
    sigmas = np.geomspace(config["sigma_max"], config["sigma_min"], config["num_scales"])
    np.testing.assert_allclose(model["module.sigmas"], sigmas, rtol=1e-12)
    assert model["module.sigmas"].dtype == np.float64
    fixed = {"module.sigmas", "module.all_modules.0.W"}
    trained = [value for key, value in model.items() if key not in fixed]
    averaged = tree["ema"]["shadow_params"]
    assert [value.shape for value in averaged] == [value.shape for value in trained]
    arrays = (*averaged, *trained)
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in arrays)
    # A few optimizer steps apart, and not the same.
    distance = [np.abs(a - b).max() for a, b in zip(averaged, trained)]
    assert 0 < max(distance) < 0.1
    assert type(tree["optimizer"]["param_groups"][0]["lr"]) is float


@pytest.mark.parametrize("name", _of("ncsn"))
def test_published_files_of_ncsn(name: str) -> None:
    path = golden(f"nets/{name}")
    container, (state, optimizer) = read_file(path)
    assert container == _container(path) and set(optimizer) == {"state", "param_groups"}
    channels = arrays_of(_folder(name))["x"].shape[-1]
    assert state["module.begin_conv.weight"].shape[1:] == (channels, 3, 3)
    assert all(v.dtype == np.float32 and np.isfinite(v).all() for v in state.values())


@pytest.mark.parametrize("name", _of("ncsnv2"))
def test_published_files_of_ncsnv2(name: str) -> None:
    path = golden(f"nets/{name}")
    found, (state, _, epoch, step, ema) = read_file(path)
    assert found == _container(path)
    assert (epoch, f"checkpoint_{step}") == (0, path.stem)
    sigmas = arrays_of(_folder(name))["sigmas"]
    np.testing.assert_allclose(state["module.sigmas"], sigmas, rtol=1e-6)
    assert {f"module.{key}" for key in ema} == state.keys() - {"module.sigmas"}
    assert all(ema[key].shape == state[f"module.{key}"].shape for key in ema)


def check(read: Any, made: Any) -> None:
    """Equal kinds, types, shapes and bytes, all the way down; ordered dictionaries as dict."""
    if isinstance(made, dict):
        assert type(read) is dict and list(read) == list(made)
        for key in made:
            check(read[key], made[key])
    elif isinstance(made, (list, tuple)):
        assert type(read) is type(made) and len(read) == len(made)
        for a, b in zip(read, made):
            check(a, b)
    elif isinstance(made, np.ndarray):
        assert read.dtype == made.dtype.newbyteorder("=") and read.shape == made.shape
        np.testing.assert_array_equal(read, made)
    else:
        assert type(read) is type(made) and read == made


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("container", ["zip", "zip, big-endian", "stream"])
def test_containers(tmp_path: Path, protocol: int, container: str) -> None:
    tree = crafted.small_tree() | {"view": np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)}
    content, arrays = crafted.torch_pickle(tree, protocol)
    flat = {key: np.ascontiguousarray(array.ravel(order="K")) for key, array in arrays.items()}
    if container == "stream":
        data = crafted.torch_stream(
            content, {key: (array.size, array.tobytes()) for key, array in flat.items()}
        )
    elif container == "zip":
        data = crafted.torch_zip(content, {key: array.tobytes() for key, array in flat.items()})
    else:
        data = crafted.torch_zip(
            content, {key: array.byteswap().tobytes() for key, array in flat.items()}, b"big"
        )
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(data)
    check(read_torch(path), tree)
    check(read_file(path)[1], tree)


def test_tensors_are_views(tmp_path: Path) -> None:
    numbers = np.arange(6, dtype=np.float32)
    window = crafted.tensor((2, 2), (3, 1), 1)
    path = tmp_path / "a.pth"
    path.write_bytes(
        crafted.torch_zip(
            crafted.PROTO + b"(" + crafted.tensor() + window + b"t.", {"0": numbers.tobytes()}
        )
    )
    whole, part = read_torch(path)
    np.testing.assert_array_equal(whole, numbers.reshape(2, 3))
    np.testing.assert_array_equal(part, [[1, 2], [4, 5]])
    assert np.shares_memory(whole, part) and not whole.flags.writeable


def test_window_into_a_storage(tmp_path: Path) -> None:
    numbers = np.arange(12, dtype=np.float32)
    window = crafted.tensor((2, 3), (5, 2), 2, crafted.storage(count=12))
    path = tmp_path / "a.pth"
    path.write_bytes(
        crafted.torch_stream(crafted.PROTO + window + b".", {"0": (12, numbers.tobytes())})
    )
    np.testing.assert_array_equal(read_torch(path), [[2, 4, 6], [7, 9, 11]])


KINDS = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("module", ["torch", "torch.cuda"])
def test_number_types(tmp_path: Path, kind: str, module: str) -> None:
    made = np.array([0, 1, 1, 0, 1]).astype(KINDS[kind])
    block = crafted.storage(count=5, kind=kind).replace(b"ctorch\n", f"c{module}\n".encode())
    path = tmp_path / "a.pth"
    path.write_bytes(
        crafted.torch_zip(
            crafted.PROTO + crafted.tensor((5,), (1,), block=block) + b".", {"0": made.tobytes()}
        )
    )
    check(read_torch(path), made)


def test_tensors_that_share_a_storage_too_often_are_refused(tmp_path: Path) -> None:
    block = crafted.storage(count=10_000)
    path = tmp_path / "a.pth"
    for times in (2, 3):
        views = b"".join(crafted.tensor((10_000 - i,), (1,), i, block) for i in range(times))
        path.write_bytes(
            crafted.torch_zip(crafted.PROTO + b"(" + views + b"t.", {"0": bytes(40_000)})
        )
        if times == 2:
            assert len(read_torch(path)) == 2
    with pytest.raises(UserError, match="larger than the file"):
        read_torch(path)
    same = (
        crafted.tensor((10_000,), (1,), 0, block) * 3
    )  # one array, but three copies once it is converted
    path.write_bytes(crafted.torch_zip(crafted.PROTO + b"(" + same + b"t.", {"0": bytes(40_000)}))
    with pytest.raises(UserError, match="larger than the file"):
        read_torch(path)


def written() -> dict[str, Any]:
    """Something of everything that can be written."""
    rng = np.random.default_rng(1)
    return {
        "model": collections.OrderedDict(
            [
                ("weight", rng.standard_normal((2, 3, 1)).astype(np.float32)),
                ("sigmas", rng.standard_normal(4)),
            ]
        ),
        "empty": collections.OrderedDict(),
        "scalar": np.array(2.5, np.float32),
        "none": np.zeros((0, 3), np.float32),
        "turned": np.arange(6, dtype=np.int64).reshape(2, 3).T,
        "backwards": np.arange(5, dtype=np.int32)[::-1],
        "big": np.arange(4, dtype=">f4"),
        "types": [np.ones(3, kind) for kind in KINDS.values()],
        "numbers": [0, 255, 256, 65535, 65536, -1, 2**31, -(2**63), 2**63 - 1, 0.1, -1e-300],
        "others": (None, True, False, "", "gamma γ 😀", (), [], {}, ((1,),)),
        0: {"step": 3},
    }


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    write_torch(path, written())
    check(read_torch(path), written())
    first = path.read_bytes()
    write_torch(path, read_torch(path))  # over the file that the arrays are views of
    check(read_torch(path), written())
    scalar = read_torch(path)["scalar"]
    write_torch(path, {"scalar": np.array(7.0, np.float32)})
    assert scalar == 2.5  # the file is another one, complete, under the same name
    write_torch(path, written())
    assert path.read_bytes() == first and [entry.name for entry in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("name", PTH)
def test_round_trip_of_published_files(tmp_path: Path, name: str) -> None:
    tree = read_torch(golden(f"nets/{name}"))
    write_torch(tmp_path / "a.pth", tree)
    check(read_torch(tmp_path / "a.pth"), tree)


def instructions(path: Path) -> tuple[list[tuple[str, Any]], set[str]]:
    """The pickle's instructions without those about memory, and the names of the other entries."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        content = archive.read(next(name for name in names if name.endswith("/data.pkl")))
    memory: dict[int, Any] = {}
    found: list[tuple[str, Any]] = []
    for opcode, argument, _ in pickletools.genops(io.BytesIO(content)):
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            memory[argument] = found[-1]
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            found.append(memory[argument])
        else:
            found.append((opcode.name, argument))
    return found, {name.split("/", 1)[1] for name in names if "/data/" not in name}


@pytest.mark.parametrize("name", _of("score_sde_pytorch"))
def test_tensors_are_written_as_torch_writes_them(tmp_path: Path, name: str) -> None:
    """The instructions of each tensor, one by one; tuples and dictionaries have equivalent ones."""
    original = golden(f"nets/{name}")
    if ("BINUNICODE", "cuda:0") in instructions(original)[0]:
        pytest.skip("its tensors were on a GPU; ours are written for the CPU")
    write_torch(tmp_path / "a.pth", collections.OrderedDict(read_torch(original)["model"]))
    ours, our_entries = instructions(tmp_path / "a.pth")
    theirs, their_entries = instructions(original)
    assert our_entries == {"data.pkl", "byteorder", "version"} <= their_entries
    start = theirs.index(("BINUNICODE", "module.sigmas"))
    first_key = next(
        argument for name, argument in theirs[start:] if name == "BINUNICODE" and argument.isdigit()
    )

    def normal(found: list[tuple[str, Any]], offset: int) -> list[tuple[str, Any]]:
        """Storage keys from 0; TUPLE1..3 and EMPTY_TUPLE leave out the mark that TUPLE needs."""
        result: list[tuple[str, Any]] = []
        for position, (name, argument) in enumerate(found):
            if name == "BINUNICODE" and argument.isdigit() and found[position - 1][0] == "GLOBAL":
                result.append((name, str(int(argument) - offset)))
            elif name not in ("MARK", "EMPTY_TUPLE"):
                result.append(("TUPLE", None) if name.startswith("TUPLE") else (name, argument))
        return result

    mine = normal(ours[ours.index(("BINUNICODE", "module.sigmas")) :], 0)
    yours = normal(theirs[start:], int(first_key))
    # Their order of storages follows the first use; the names of entries and what belongs to them
    # are the same.
    end = mine.index(("SETITEMS", None))
    without = [item for item in mine[:end] if item != ("TUPLE", None)]
    other = [item for item in yours if item != ("TUPLE", None)][: len(without)]
    assert without == other


def test_only_instructions_of_the_weights_only_unpickler(tmp_path: Path) -> None:
    write_torch(tmp_path / "a.pth", written())
    found, entries = instructions(tmp_path / "a.pth")
    known = {
        "GLOBAL",
        "REDUCE",
        "SETITEMS",
        "APPENDS",
        "MARK",
        "TUPLE",
        "NONE",
        "NEWFALSE",
        "NEWTRUE",
        "EMPTY_TUPLE",
        "EMPTY_LIST",
        "EMPTY_DICT",
        "BINPERSID",
        "BININT",
        "BININT1",
        "BININT2",
        "BINFLOAT",
        "BINUNICODE",
        "LONG1",
        "PROTO",
        "STOP",
    }
    assert {name for name, _ in found} <= known and found[0] == ("PROTO", 2)
    assert entries == {"data.pkl", "byteorder", "version"}


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"bytes", 2**63, np.array(["a"]), np.float32(1), 1j]
)
def test_what_cannot_be_written(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"as it was")
    with pytest.raises(UserError, match="a PyTorch file cannot hold"):
        write_torch(path, {"a": [np.zeros(3), value]})
    assert path.read_bytes() == b"as it was" and [entry.name for entry in tmp_path.iterdir()] == [
        "a.pth"
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deflated bomb", "compressed, as torch.save never does"),
        ("npz", "not one of torch.save.*unpack it first"),
        ("script", "TorchScript"),
        ("byte order", "byte order is b'middle'"),
        ("overlapping entries", "overlap"),
        ("a name twice", "two entries named 'm/data/1'"),
        ("huge entry", "truncated"),
        ("changed data", "'model/data/0' is damaged"),
        ("encrypted", "encrypted"),
        ("long table of contents", "more than 2,097,152 bytes"),
        ("no table of contents", "damaged or truncated"),
    ],
)
def test_messages_about_zip_files(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(crafted.refused_zips()[name])
    with pytest.raises(UserError, match=message):
        read_file(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no magic number", "not one of torch.save"),
        ("a huge count", "has 4611686018427387904 numbers instead of 6"),
        ("too little data", "truncated"),
        ("too much data", "1 bytes follow"),
        ("no storages", "1 storages are missing"),
        ("hostile keys", "asks for os.system"),
        ("hostile machine", "asks for os.system"),
    ],
)
def test_messages_about_streams(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(crafted.refused_streams()[name])
    with pytest.raises(UserError, match=message):
        read_file(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "expanded",
            r"shape \(1000000,\) reaches beyond its storage of 6 numbers, or repeats them",
        ),
        ("strides beyond", "reaches beyond"),
        ("offset beyond", "reaches beyond"),
        ("a missing storage", "storage '1' is missing"),
        ("a wrong count", "24 bytes instead of 5 x float32"),
        ("a wider type", "24 bytes instead of 6 x float64"),
    ],
)
def test_messages_about_tensors(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(crafted.torch_zip(crafted.refused_pickles()[name]))
    with pytest.raises(UserError, match=message):
        read_file(path)


def test_files_without_checksums(tmp_path: Path) -> None:
    """PyTorch writes zeros in their place where it is told to; other wrong ones are damage."""
    good = bytearray(crafted.torch_zip(crafted.PROTO + crafted.tensor() + b"."))
    path = tmp_path / "a.pth"
    path.write_bytes(good)
    wanted, places = read_file(path)[1], []
    start = good.index(b"PK\x01\x02")
    while start >= 0:
        places.append(start + 16)
        start = good.find(b"PK\x01\x02", start + 1)
    for place in places:
        good[place : place + 4] = bytes(4)
    path.write_bytes(good)
    np.testing.assert_array_equal(read_file(path)[1], wanted)
    good[places[0] : places[0] + 4] = b"\1\2\3\4"
    path.write_bytes(good)
    with pytest.raises(UserError, match="wrong checksum"):
        read_file(path)
