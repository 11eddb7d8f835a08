"""Checkpoint files made for the tests, byte by byte or by pickle: honest and hostile ones."""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import flax.serialization
import msgpack
import numpy as np

MAGIC = (
    pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    + pickle.dumps(1001, 2)
    + pickle.dumps({"little_endian": True}, 2)
)

# Instructions of pickles.
PROTO = b"\x80\x02"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n)R"


def text(value: str) -> bytes:
    """The instruction that pushes a text."""
    data = value.encode("utf-8")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """The instruction that pushes a whole number, of any size."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def sizes(*values: int) -> bytes:
    """The instructions that push a tuple of whole numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", count: int = 6, kind: str = "FloatStorage") -> bytes:
    """The instructions that refer to a storage."""
    return (
        b"("
        + text("storage")
        + f"ctorch\n{kind}\n".encode()
        + text(key)
        + text("cpu")
        + number(count)
        + b"tQ"
    )


def tensor(
    shape=(2, 3), strides=(3, 1), offset=0, block: bytes = storage(), hooks: bytes = ORDERED
) -> bytes:
    """The instructions that build a tensor."""
    parts = (
        TENSOR,
        b"(",
        block,
        number(offset),
        sizes(*shape),
        sizes(*strides),
        b"\x89",
        hooks,
        b"tR",
    )
    return b"".join(parts)


def torch_zip(
    content: bytes, blocks: Mapping[str, bytes] = {"0": bytes(24)}, order: bytes = b"little"
) -> bytes:
    """A zip container with this pickle and these storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in {"data.pkl": content, "byteorder": order, "version": b"3\n"}.items():
            archive.writestr(f"model/{name}", data)
        for key, data in blocks.items():
            archive.writestr(f"model/data/{key}", data)
    return file.getvalue()


def torch_stream(
    content: bytes, blocks: Mapping[str, tuple[int, bytes]] = {"0": (6, bytes(24))}
) -> bytes:
    """A container of before 1.6 with this pickle and these storages (count, bytes)."""
    data = b"".join(struct.pack("<q", count) + block for count, block in blocks.values())
    return MAGIC + content + pickle.dumps(list(blocks), 2) + data


def torch_pickle(tree: Any, protocol: int) -> tuple[bytes, dict[str, np.ndarray]]:
    """(pickle, storages) that `torch.save` makes of a tree with arrays as tensors."""
    names = {
        "float32": "FloatStorage",
        "float64": "DoubleStorage",
        "int64": "LongStorage",
        "float16": "HalfStorage",
    }
    module, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in names.values():
        setattr(module, name, type(name, (), {"__module__": "torch"}))
    utils._rebuild_tensor_v2 = types.FunctionType((lambda: None).__code__, {}, "_rebuild_tensor_v2")
    utils._rebuild_tensor_v2.__module__ = "torch._utils"
    utils._rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"

    class Block:
        def __init__(self, array):
            self.array = array

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if not isinstance(value, Block):
                return None
            key = str(len(arrays))
            arrays[key] = value.array
            return (
                "storage",
                getattr(module, names[value.array.dtype.name]),
                key,
                "cuda:0",
                value.array.size,
            )

        def reducer_override(self, value):
            if type(value) is not np.ndarray:
                return NotImplemented
            strides = tuple(stride // value.itemsize for stride in value.strides)
            hooks: dict = collections.OrderedDict()
            return utils._rebuild_tensor_v2, (Block(value), 0, value.shape, strides, False, hooks)

    arrays: dict[str, np.ndarray] = {}
    file = io.BytesIO()
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": module, "torch._utils": utils})
    try:
        Pickler(file, protocol).dump(tree)
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old
    return file.getvalue(), arrays


def small_tree() -> dict[str, Any]:
    """Of the form of the published checkpoints, with a few numbers."""
    rng = np.random.default_rng(0)
    weights = {
        "module.sigmas": np.geomspace(50, 0.01, 5),
        "module.conv.weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "module.conv.bias": rng.standard_normal(4).astype(np.float32),
    }
    state = {
        0: {
            "step": np.array(3.0, np.float32),
            "exp_avg": rng.standard_normal((4, 3)).astype(np.float32),
        }
    }
    return {
        "optimizer": {
            "state": state,
            "param_groups": [{"lr": 2e-4, "betas": (0.9, 0.999), "amsgrad": False}],
        },
        "model": collections.OrderedDict(weights),
        "ema": {
            "decay": 0.999,
            "num_updates": 3,
            "shadow_params": [weights["module.conv.weight"] * 0.5, None],
        },
        "step": 70_000,
    }


def small_files() -> dict[str, bytes]:
    """The same small content in each of the three containers."""
    content, arrays = torch_pickle(small_tree(), 2)
    flat = {key: array.tobytes() for key, array in arrays.items()}
    counted = {key: (array.size, array.tobytes()) for key, array in arrays.items()}
    params = {
        "Conv_0": {
            "kernel": np.ones((3, 3, 3, 4), np.float32),
            "bias": np.arange(4, dtype=np.float32),
        }
    }
    tree = {
        "step": np.int32(7),
        "params": params,
        "ema_rate": np.array(0.999, np.float32),
        "model_state": {},
        "none": None,
    }
    return {
        "zip": torch_zip(content, flat),
        "pickle": torch_stream(content, counted),
        "msgpack": flax.serialization.msgpack_serialize(tree),
    }


def runnable(command: str) -> dict[str, bytes]:
    """Pickles that run a shell command when Python's own unpickler loads them."""
    said = text(command)
    posix = b"cposix\nsystem\n"
    return {
        "global": PROTO + posix + said + b"\x85R.",
        "global of os": PROTO + b"cos\nsystem\n(" + said + b"tR.",
        "stack_global": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + said + b"\x85R.",
        "stack_global of memory": b"\x80\x04\x8c\x06system\x94\x8c\x02os\x94h\x01h\x00\x93"
        + said
        + b"\x85R.",
        "dotted name": b"\x80\x04\x8c\x06shutil\x8c\x09os.system\x93" + said + b"\x85R.",
        "inst": PROTO + b"(" + said + b"ios\nsystem\n.",
        "inst without protocol": b"(" + said + b"ios\nsystem\n.",
        "obj": PROTO + b"(cos\nsystem\n" + said + b"o.",
        "text protocol": b"cos\nsystem\n(V" + command.encode() + b"\ntR.",
        "inside a list": PROTO + b"](K\x01" + posix + said + b"\x85Re.",
        "as hooks": PROTO + b"}" + text("a") + posix + said + b"\x85Rs.",
        "thrown away": PROTO + posix + said + b"\x85R0}.",
        "eval": PROTO
        + b"cbuiltins\neval\n"
        + text(f"__import__('os').system({command!r})")
        + b"\x85R.",
        "popen": PROTO + b"csubprocess\ncall\n(](" + text("sh") + text("-c") + said + b"etR.",
        "partial": PROTO + b"cfunctools\npartial\n(" + posix + said + b"tR)R.",
        "nested pickle": PROTO
        + b"cpickle\nloads\nC"
        + _short(PROTO + posix + said + b"\x85R.")
        + b"\x85R.",
        "framed": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00"
        + b"\x8c\x02os\x8c\x06system\x93"
        + said
        + b"\x85R.",
    }


def _short(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def refused_pickles() -> dict[str, bytes]:
    """Pickles that ask for what no checkpoint asks for, or contradict themselves."""
    names = {
        "posix system",
        "nt system",
        "os popen",
        "builtins exec",
        "builtins getattr",
        "builtins __import__",
        "__builtin__ eval",
        "subprocess Popen",
        "torch load",
        "torch.hub load",
        "torch.storage _load_from_bytes",
        "torch.serialization load",
        "torch._utils _rebuild_tensor_v3",
        "torch._utils _import_dotted_name",
        "torch FloatStorage.from_file",
        "torch.nn.modules.linear Linear",
        "numpy load",
        "numpy ndarray",
        "numpy.core.multiarray _reconstruct",
        "numpy.testing._private.utils runstring",
        "copyreg _reconstructor",
        "operator attrgetter",
        "functools partial",
        "_codecs lookup",
        "_codecs decode",
        "collections defaultdict",
        "collections OrderedDict.__init__",
        "argparse Namespace",
        "webbrowser open",
        "pickle loads",
        "runpy run_path",
        "ctypes CDLL",
        "sys modules",
        "types CodeType",
        "logging.config listen",
        "pip main",
        "timeit timeit",
        "torch.cuda",
        "torch.FloatStorage __reduce__",
        " ",
    }
    asked = {
        f"asks for {name}": PROTO + b"c" + name.replace(" ", "\n").encode() + b"\n."
        for name in names
    }
    nested = 2_000

    def tenfold(i: int) -> bytes:
        return b"(" + b"h%c" % i * 10 + b"tq%c" % (i + 1)

    return asked | {
        "extension 1": PROTO + b"\x82\x01.",
        "extension 2": PROTO + b"\x83\x01\x00.",
        "extension 4": PROTO + b"\x84\x01\x00\x00\x00.",
        "newobj": PROTO + b"csubprocess\nPopen\n" + text("true") + b"\x85\x81.",
        "newobj of a known class": PROTO + b"ccollections\nOrderedDict\n)\x81.",
        "newobj_ex": b"\x80\x04ccollections\nOrderedDict\n)}\x92.",
        "inst of a known class": PROTO + b"(icollections\nOrderedDict\n.",
        "persistent id as text": PROTO + b"Pstorage\n.",
        "persistent id of a module": PROTO
        + b"("
        + text("module")
        + b"ctorch\nFloatStorage\n"
        + text("a")
        + text("b")
        + b"tQ.",
        "persistent id of a number": PROTO + b"K\x01Q.",
        "build of a class": PROTO + ORDERED + b"}" + text("__class__") + b"K\x01sb.",
        "build of __dict__": PROTO + ORDERED + b"}" + text("__setstate__") + b"cos\nsystem\nsb.",
        "build of a pair": PROTO + ORDERED + b"N}" + text("items") + b"K\x01s\x86b.",
        "build of a name": PROTO + b"ctorch\nFloatStorage\n}" + text("_metadata") + b"}sb.",
        "build of a list": PROTO + b"]}b.",
        "build of a tensor": PROTO + tensor() + b"}" + text("_metadata") + b"}sb.",
        "a storage called": PROTO + b"ctorch\nFloatStorage\n)R.",
        "a text called": PROTO + text("os.system") + text("true") + b"\x85R.",
        "a dictionary called with code": PROTO
        + b"ccollections\nOrderedDict\n"
        + text("true")
        + b"\x85R.",
        "a name as content": PROTO + b"ctorch\nFloatStorage\n.",
        "a storage as content": PROTO + storage() + b".",
        "a number type as content": PROTO + b"cnumpy\ndtype\n(" + text("f8") + b"\x89\x88tR.",
        "an object dtype": PROTO + b"cnumpy\ndtype\n(" + text("O") + b"\x89\x88tR.",
        "a structured dtype": PROTO + b"cnumpy\ndtype\n(" + text("f8,O") + b"\x89\x88tR.",
        "an encoding by a codec": PROTO
        + b"c_codecs\nencode\n("
        + text("a")
        + text("zlib")
        + b"tR.",
        "long text encoded": PROTO
        + b"c_codecs\nencode\n("
        + text("a" * 100)
        + text("latin1")
        + b"tR.",
        "hooks": PROTO + tensor(hooks=b"cos\nsystem\n") + b".",
        "a tensor of a text": PROTO + tensor(block=text("0")) + b".",
        "a tensor of a tensor": PROTO + tensor(block=tensor()) + b".",
        "negative shape": PROTO + tensor((-2, 3)) + b".",
        "negative stride": PROTO + tensor((2, 3), (-3, 1), 3) + b".",
        "negative offset": PROTO + tensor(offset=-1) + b".",
        "offset beyond": PROTO + tensor(offset=1) + b".",
        "huge offset": PROTO + tensor(offset=2**63) + b".",
        "shape beyond": PROTO + tensor((3, 3)) + b".",
        "strides beyond": PROTO + tensor((2, 3), (4, 1)) + b".",
        "expanded": PROTO + tensor((1_000_000,), (0,)) + b".",
        "huge shape": PROTO + tensor((2**31, 2**31, 2**31), (0, 0, 0)) + b".",
        "shape that overflows to zero": PROTO + tensor((2**32, 2**32), (0, 0)) + b".",
        "shape and strides differ": PROTO + tensor((2, 3), (1,)) + b".",
        "many axes": PROTO + tensor((1,) * 100, (1,) * 100) + b".",
        "a shape of texts": PROTO
        + TENSOR
        + b"("
        + storage()
        + b"K\x00"
        + text("a")
        + b"\x85)\x89Nt R.",
        "a truth value as size": PROTO
        + TENSOR
        + b"("
        + storage()
        + b"\x89)"
        + b")\x89"
        + ORDERED
        + b"tR.",
        "a wrong count": PROTO + tensor(block=storage(count=5), shape=(5,), strides=(1,)) + b".",
        "a huge count": PROTO + tensor(block=storage(count=2**62)) + b".",
        "a negative count": PROTO + tensor(block=storage(count=-6)) + b".",
        "a wider type": PROTO + tensor(block=storage(kind="DoubleStorage")) + b".",
        "a missing storage": PROTO + tensor(block=storage("1")) + b".",
        "a storage outside": PROTO + tensor(block=storage("../data.pkl")) + b".",
        "two types of a storage": PROTO
        + b"("
        + tensor()
        + tensor(block=storage(kind="IntStorage"))
        + b"t.",
        "deep lists": PROTO + b"]" * nested + b"a" * (nested - 1) + b".",
        "deep tuples": PROTO + b")" + b"\x85" * nested + b".",
        "deep dictionaries": PROTO + b"}" + (text("a") + b"}") * 1_000 + b"s" * 1_000 + b".",
        "marks": PROTO + b"(" * nested + b".",
        "a list in itself": PROTO + b"]q\x00h\x00a.",
        "a dictionary in itself": PROTO + b"}q\x00" + text("a") + b"h\x00s.",
        "ten to the thirty": PROTO + b"]()q\x00" + b"".join(map(tenfold, range(30))) + b"e.",
        "duplicated without end": PROTO + b"}" + b"2" * 1000 + b".",
        "text of 4 GB": PROTO + b"X\xff\xff\xff\xffabc.",
        "text of 2^60 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"abc.",
        "bytes of 4 GB": b"\x80\x03B\xff\xff\xff\xffabc.",
        "bytes of 2^60 bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.",
        "byte array of 2^60 bytes": b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"abc.",
        "out-of-band buffer": b"\x80\x05\x97.",
        "number of 2 GB": PROTO + b"\x8b\xff\xff\xff\x7f\x01.",
        "number of 200 kB": PROTO + b"\x8b" + struct.pack("<i", 2_000) + b"\x7f" * 2_000 + b".",
        "number with a negative size": PROTO + b"\x8b\xff\xff\xff\xff\x01.",
        "decimal number": PROTO + b"I" + b"9" * 900 + b"\n.",
        "endless decimal number": PROTO + b"L" + b"9" * 5_000 + b"L\n.",
        "endless line": PROTO + b"c" + b"a" * 5_000 + b"\n.",
        "a list as key": PROTO + b"}]K\x01s.",
        "a tensor as key": PROTO + b"}" + tensor() + b"K\x01s.",
        "nan as key": PROTO + b"}G\x7f\xf8\x00\x00\x00\x00\x00\x00K\x01s.",
        "a huge number as key": PROTO + b"}" + number(2**100) + b"K\x01s.",
        "a list updated": PROTO + b"]" + text("a") + b"K\x01s.",
        "a dictionary extended": PROTO + b"}K\x01a.",
        "an odd number of entries": PROTO + b"}(K\x01u.",
        "empty stack": PROTO + b".",
        "underflow": PROTO + b"R.",
        "underflow behind a mark": PROTO + b"K\x01K\x02(\x86.",
        "no mark": PROTO + b"K\x01t.",
        "two results": PROTO + b"}}.",
        "unknown memory": PROTO + b"h\x07.",
        "unknown instruction": PROTO + b"\xff.",
        "protocol 0": pickle.dumps({"a": 1}, 0),
        "protocol 1": pickle.dumps({"a": 1}, 1),
        "protocol 9": b"\x80\x09}.",
        "a set": pickle.dumps({1, 2}, 4),
        "an object": pickle.dumps({"a": types.SimpleNamespace(a=1)}, 4),
        "an array": pickle.dumps(np.arange(5), 4),
        "an exception": pickle.dumps(ValueError("a"), 2),
        "no end": PROTO + b"}",
    }


def heavy_pickles() -> dict[str, bytes]:
    """Pickles of many or long instructions, refused too."""
    nested = 200_000
    astral = "\U0001f600".encode() + b"a" * (2**20 - 104)
    return {
        "deep lists": PROTO + b"]" * nested + b"a" * (nested - 1) + b".",
        "deep tuples": PROTO + b")" + b"\x85" * nested + b".",
        "deep dictionaries": PROTO + b"}" + (text("a") + b"}") * 50_000 + b"s" * 50_000 + b".",
        "marks": PROTO + b"(" * nested + b".",
        "too many instructions": PROTO + b"}" + b"q\x00" * 600_000 + b".",
        "too many containers": PROTO + b"](" + b"}" * 600_000 + b"e.",
        "too many entries of memory": PROTO + b"}\x94" * 300_000 + b".",
        "long texts": PROTO + b"](" + (b"X" + struct.pack("<I", len(astral)) + astral) * 9 + b"e.",
        "endless decimal number": PROTO + b"L" + b"9" * 500_000 + b"L\n.",
        "endless line": PROTO + b"c" + b"a" * 500_000 + b"\n.",
    }


def refused_zips() -> dict[str, bytes]:
    """Zip files that are no checkpoint, or contradict themselves."""
    good = torch_zip(PROTO + tensor() + b".")
    directory = good.index(b"PK\x01\x02")
    end = good.index(b"PK\x05\x06")

    def changed(position: int, code: str, value: int, data: bytes = good) -> bytes:
        return data[:position] + struct.pack(code, value) + data[position + struct.calcsize(code) :]

    def archive(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as made:
            for name, data in entries.items():
                made.writestr(name, data)
        return file.getvalue()

    # Every entry of the table of contents repeated; the numbers at the end made to agree.
    listed = good[directory:end]
    twice = changed(end + len(listed) + 12, "<I", 2 * len(listed), good[:end] + listed + good[end:])
    one = listed[: 46 + len("model/data.pkl")]
    kernel = zipfile.ZipFile(io.BytesIO(good)).getinfo("model/data/0").header_offset
    block = good.index(b"PK\x01\x02", good.index(b"model/version", directory))
    return {
        "deflated bomb": archive(
            {"model/data.pkl": PROTO + tensor() + b".", "model/data/0": bytes(10**7)},
            zipfile.ZIP_DEFLATED,
        ),
        "deflated pickle": archive(
            {"model/data.pkl": PROTO + b"}" + b"}0" * 10**6 + b"."}, zipfile.ZIP_DEFLATED
        ),
        "bzip2": archive(
            {"model/data.pkl": PROTO + b"}.", "model/data/0": bytes(10**6)}, zipfile.ZIP_BZIP2
        ),
        "lzma": archive(
            {"model/data.pkl": PROTO + b"}.", "model/data/0": bytes(10**6)}, zipfile.ZIP_LZMA
        ),
        "no pickle": archive({"a.txt": b"hello"}),
        "npz": archive({"a.npy": b"\x93NUMPY"}),
        "two pickles": archive({"a/data.pkl": PROTO + b"}.", "b/data.pkl": PROTO + b"}."}),
        "script": archive(
            {"a/data.pkl": PROTO + b"}.", "a/constants.pkl": PROTO + b").", "a/code/a.py": b""}
        ),
        "a checkpoint inside": archive({"checkpoint.pth": good}),
        "byte order": torch_zip(PROTO + tensor() + b".", order=b"middle"),
        "entries twice": twice,
        # Written under another name of the same length, which is then changed in the header and
        # the table of contents.
        "a name twice": archive(
            {"m/data.pkl": PROTO + b"}.", "m/data/1": b"1", "m/data/2": b"2"}
        ).replace(b"data/2", b"data/1"),
        "overlapping entries": changed(block + 42, "<I", 0),
        "overlapping by a little": changed(block + 42, "<I", kernel - 4),
        "entry before the file": changed(block + 42, "<I", 2**32 - 5),
        "entry in the table of contents": changed(block + 42, "<I", directory),
        "huge entry": changed(changed_size(block), "<I", 2**31, changed(block + 20, "<I", 2**31)),
        "entry up to the end": changed(
            changed_size(block), "<I", 400, changed(block + 20, "<I", 400)
        ),
        "unequal sizes": changed(changed_size(block), "<I", 2**31),
        "zip64 size without its field": changed(changed_size(block), "<I", 2**32 - 1),
        "encrypted": changed(block + 8, "<H", 1),
        "wrong checksum": changed(block + 16, "<I", 12345),
        "changed data": good[: kernel + 60] + b"\x01" + good[kernel + 61 :],
        "changed pickle": good.replace(PROTO + TENSOR, PROTO + TENSOR.replace(b"v2", b"v3")),
        "unknown method": changed(block + 10, "<H", 99),
        "huge table of contents": changed(end + 12, "<I", 2**31),
        "table of contents far away": changed(end + 16, "<I", 2**31),
        "long table of contents": good[:directory]
        + one * 60_000
        + changed(12, "<I", len(one) * 60_000, good[end:]),
        "no table of contents": good[:directory],
        "only its end": good[:4] + good[end:],
        "zip64 end of nonsense": good[:end]
        + b"PK\x06\x06"
        + b"\xff" * 52
        + b"PK\x06\x07"
        + b"\x00" * 16
        + good[end:],
        "nothing behind the first bytes": b"PK\x03\x04",
        "empty archive": archive({}),
        "wrong first header": b"PK\x03\x04" + b"\xff" * 26 + good[30:],
    }


def changed_size(entry: int) -> int:
    """Where an entry of the table of contents keeps the size of its content."""
    return entry + 24


def refused_streams() -> dict[str, bytes]:
    """Files of before 1.6 that contradict themselves."""
    good = PROTO + tensor() + b"."
    return {
        "no magic number": good,
        "another magic number": pickle.dumps(7, 2) + torch_stream(good),
        "another version": pickle.dumps(0x1950A86A20F9469CFC6C, 2)
        + pickle.dumps(1000, 2)
        + pickle.dumps({}, 2)
        + good,
        "magic number of a truth value": pickle.dumps(True, 2) * 3 + good,
        "another count": torch_stream(good, {"0": (5, bytes(24))}),
        "a huge count": torch_stream(good, {"0": (2**62, bytes(24))}),
        "a negative count": torch_stream(good, {"0": (-1, bytes(24))}),
        "too little data": torch_stream(good, {"0": (6, bytes(23))}),
        "too much data": torch_stream(good, {"0": (6, bytes(25))}),
        "no storages": torch_stream(good, {}),
        "another key": torch_stream(good, {"1": (6, bytes(24))}),
        "a key twice": torch_stream(good).replace(
            text("0") + b"q\x01a", b"(" + text("0") * 2 + b"e"
        )
        + bytes(32),
        "keys of numbers": MAGIC + good + pickle.dumps([0], 2) + struct.pack("<q", 6) + bytes(24),
        "keys of nothing": MAGIC + good + pickle.dumps(None, 2) + struct.pack("<q", 6) + bytes(24),
        "no end": MAGIC + good,
        "hostile machine": MAGIC[:23] + PROTO + b"cos\nsystem\n." + good,
        "hostile keys": MAGIC + good + PROTO + b"cos\nsystem\n" + text("true") + b"\x85R.",
    }


def refused_msgpacks() -> dict[str, bytes]:
    """Msgpack files that flax does not write, or that contradict themselves, but start alike."""

    def array(shape: Any, name: Any, data: Any, kind: int = 1) -> bytes:
        return b"\x81\xa1a" + msgpack.packb(
            msgpack.ExtType(kind, msgpack.packb((shape, name, data)))
        )

    def entry(value: bytes) -> bytes:
        return b"\x81\xa1a" + value

    ones = np.ones(4, np.float32)
    chunks = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 8},
        "chunks": {"0": ones, "1": ones},
    }
    pack = flax.serialization.msgpack_serialize
    return {
        "array of 2^32 entries": entry(b"\xdd\xff\xff\xff\xff"),
        "map of 2^32 entries": b"\xdf\xff\xff\xff\xff\xa1a\x01",
        "text of 2^32 bytes": entry(b"\xdb\xff\xff\xff\xffabc"),
        "bytes of 2^32": entry(b"\xc6\xff\xff\xff\xffabc"),
        "extension of 2^32 bytes": entry(b"\xc9\xff\xff\xff\xff\x01abc"),
        "arrays of 2^32 in each other": entry(b"\xdd\xff\xff\xff\xff" * 1000),
        "a million lists deep": entry(b"\x91" * 10**6),
        "a million dictionaries deep": b"\x81\xa1a" * 300_000,
        "a million names deep": entry(b"\x81" * 10**6),
        "a million empty dictionaries": entry(b"\xdd\x00\x0f\x42\x40" + b"\x80" * 10**6),
        "a million numbers": b"\xdf\x00\x03\x0d\x40"
        + b"".join(b"\xa3%06x" % i + b"\x01" for i in range(200_000)),
        "long names": b"\x82" + (b"\xda\xff\xff" + b"a" * 65535 + b"\xc0") * 2,
        "extensions in each other": entry(
            msgpack.packb(msgpack.ExtType(1, msgpack.packb(msgpack.ExtType(1, b"abc"))))
        ),
        "an unknown extension": entry(msgpack.packb(msgpack.ExtType(42, b"abc"))),
        "a time": entry(b"\xd6\xff\x00\x00\x00\x00"),
        "bytes": entry(b"\xc4\x03abc"),
        "never used byte": entry(b"\xc1"),
        "objects": array([1], "object", b"12345678"),
        "a code of objects": array([1], "O", b"12345678"),
        "a type of texts": array([2], "<U1", b"12345678"),
        "a structured type": array([1], "f4,f4", b"12345678"),
        "a type of nothing": array([1], "V8", b"12345678"),
        "a type as list": array([1], ["f4"], b"1234"),
        "too much data": array([1], "float32", b"12345678"),
        "too little data": array([3], "float32", b"12345678"),
        "no data": array([3], "float32", None),
        "data as text": array([2], "float32", "12345678"),
        "negative shape": array([-2], "float32", b"12345678"),
        "two negative sizes": array([-1, -2], "float32", b"12345678"),
        "huge shape": array([2**62, 4], "float32", b"12345678"),
        "huge empty shape": array([0, 2**62, 2**62], "float32", b""),
        "shape of texts": array(["2"], "float32", b"12345678"),
        "shape of truth values": array([True, 2], "float32", b"12345678"),
        "shape as number": array(2, "float32", b"12345678"),
        "shape as dictionary": array({"0": 2}, "float32", b"12345678"),
        "many axes": array([1] * 1000, "float32", b"1234"),
        "huge sizes of many axes": array([2**63] * 20_000, "float32", b"1234"),
        "a scalar of two numbers": array([2], "float32", b"1234", 3),
        "more behind an array": entry(
            msgpack.packb(msgpack.ExtType(1, msgpack.packb(([1], "uint8", b"1")) + b"1"))
        ),
        "more behind a complex number": entry(
            msgpack.packb(msgpack.ExtType(2, msgpack.packb((1.0, 2.0)) + b"1"))
        ),
        "a complex number beyond its extension": b"\x82\xa1a\xd4\x02\x92\x01\x02",
        "a complex number of texts": entry(
            msgpack.packb(msgpack.ExtType(2, msgpack.packb(("a", "b"))))
        ),
        "a complex number of one": entry(msgpack.packb(msgpack.ExtType(2, msgpack.packb((1.0,))))),
        "a number as key": b"\x81\x01\x02",
        "a key of another kind": b"\x82\xa1a\x01\x01\x02",
        "bytes as key": b"\x81\xc4\x01a\x02",
        "a list as key": b"\x81\x90\x02",
        "a key twice": b"\x82\xa1a\x01\xa1a\x02",
        "a name that is no text": entry(b"\xa2\xff\xfe"),
        "chunks of two types": pack(chunks | {"chunks": {"0": ones, "1": np.ones(4, np.int8)}}),
        "chunks of another size": pack(chunks | {"shape": {"0": 9}}),
        "chunks missing": pack(chunks | {"chunks": {"0": ones, "2": ones}}),
        "no chunks": pack({"__msgpack_chunked_array__": True, "shape": {"0": 0}, "chunks": {}}),
        "chunks without shape": pack({"__msgpack_chunked_array__": True, "chunks": {"0": ones}}),
        "chunks in chunks": pack(chunks | {"chunks": {"0": dict(chunks)}}),
        "chunks of numbers": pack(chunks | {"chunks": {"0": 1, "1": 2}}),
        "more behind the end": pack({"a": ones}) + b"\xc0",
        "nothing behind the first byte": b"\x81",
        "nothing behind the length": b"\xdf\x00\x00\x00\x01",
    }


def refused_others() -> dict[str, bytes]:
    """What is found under a checkpoint's name and is none."""
    return {
        "empty": b"",
        "web page": b"\n<!DOCTYPE html><html><head><title>Drive - Virus scan warning</title>",
        "web page in capitals": b"<HTML><BODY>Sign in</BODY></HTML>",
        "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\n"
        b"oid sha256:4d7a\nsize 123\n",
        "text": b"step: 3\nema: true\n",
        "gzip": b"\x1f\x8b\x08\x00" + bytes(20),
        "tar": b"checkpoint/".ljust(257, b"\0") + b"ustar\x0000" + bytes(250),
        "safetensors": struct.pack("<Q", 40)
        + b'{"a":{"dtype":"F32","shape":[1]}}'.ljust(40)
        + bytes(4),
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(20),
        "numpy": b"\x93NUMPY\x01\x00",
        "zeros": bytes(1000),
        "one byte": b"\x80",
        "ones": b"\xff" * 1000,
        "png": b"\x89PNG\r\n\x1a\n" + bytes(20),
        "list in msgpack": b"\x93\x01\x02\x03",
    }


WRAPPED: dict[str, Callable[[bytes], bytes]] = {
    "zip": torch_zip,
    "stream": torch_stream,
    "bare": lambda content: content,
}
