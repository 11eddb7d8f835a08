"""Pickles of checkpoints, read as data.

Instructions are parsed one by one; no Python object is ever looked up or called.

A pickle is a program for a small stack machine that may call any function by name. This module runs
only the instructions that checkpoints consist of, with its own meaning for them: names are kept as
text and compared with the table `BUILDERS`. A file that asks for any other instruction or name is
refused. Work and memory are bounded: arguments are cut from the few megabytes that a pickle may
have, never allocated by the size the file declares.
"""

import dataclasses
import io
import math
import pickletools
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from score_sde.errors import UserError

MAX_BYTES = 8 * 2**20  # of one pickle; those of the largest published networks have less than 1 MiB
MAX_INSTRUCTIONS = 500_000  # a tensor takes about 30
MAX_DEPTH = 32  # of containers in containers
MAX_AXES = 16  # of a tensor

STORAGES = {
    "DoubleStorage": np.dtype("f8"),
    "FloatStorage": np.dtype("f4"),
    "HalfStorage": np.dtype("f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("i8"),
    "IntStorage": np.dtype("i4"),
    "ShortStorage": np.dtype("i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "ComplexFloatStorage": np.dtype("c8"),
    "ComplexDoubleStorage": np.dtype("c16"),
}
SCALARS = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")


@dataclasses.dataclass(frozen=True)
class Storage:
    """A block of `count` numbers kept outside the pickle under the name `key`."""

    dtype: np.dtype
    key: str
    count: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Entry i, j, ... lies at `offset` + i strides[0] + j strides[1] + ... .

    Places are those of the storage, counted in numbers.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many entries it has."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Pickle:
    """What a pickle holds, the storages it names and the position behind its end.

    Tensors are `Tensor`s.
    """

    value: Any
    storages: dict[str, Storage]
    end: int


@dataclasses.dataclass(frozen=True)
class _Name:
    """A function or class that the file names: text, never looked up."""

    text: str


@dataclasses.dataclass
class _NumberType:
    """A NumPy dtype while the file describes it.

    Its byte order follows in an instruction of its own.
    """

    code: str
    order: str = "<"


def read_pickle(buffer: Any, start: int = 0, stop: int | None = None) -> Pickle:
    """The pickle (protocol 2 to 5) between `start` and `stop` of a buffer.

    The buffer is bytes or an mmap; the pickle starts at `start` and ends before `stop`.

    Dictionaries (ordered ones too), lists, tuples, texts, bytes, numbers, None and tensors are
    read.

    Raises:
        UserError: the file asks for anything else, or for more than the limits of this module.
        ValueError, IndexError, KeyError, TypeError: it is no pickle, is damaged or truncated.
    """
    if stop is not None and stop - start > MAX_BYTES:
        raise UserError(f"the pickle is longer than {MAX_BYTES:,} bytes: no checkpoint's is")
    window = io.BytesIO(
        buffer[start : min(len(buffer) if stop is None else stop, start + MAX_BYTES)]
    )
    machine = _Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(window)):
        if count == 0 and opcode.name != "PROTO":
            raise UserError(
                f"the pickle starts with {opcode.name}, not with a protocol of 2 or later as "
                "checkpoints do"
            )
        if count >= MAX_INSTRUCTIONS:
            raise UserError(
                f"the pickle has more than {MAX_INSTRUCTIONS:,} instructions: no checkpoint's has"
            )
        if opcode.name == "STOP":
            break
        machine.run(opcode.name, argument)
    return Pickle(machine.result(), machine.storages, start + window.tell())


def fill(value: Any, array: Callable[[Tensor], np.ndarray]) -> Any:
    """A copy of the containers with `array(tensor)` for each tensor.

    Raises:
        UserError: containers are nested deeper than 32 (or contain themselves), have more entries
            than a checkpoint's (containers that hold each other many times), or hold anything but
            data.
    """
    entries = 0

    def copy(value: Any, depth: int) -> Any:
        nonlocal entries
        entries += 1
        if depth > MAX_DEPTH:
            raise UserError(
                f"containers are nested more than {MAX_DEPTH} deep: no checkpoint's are"
            )
        if entries > MAX_INSTRUCTIONS:
            raise UserError(
                f"the containers have more than {MAX_INSTRUCTIONS:,} entries: no checkpoint's have"
            )
        kind = type(value)
        if kind is Tensor:
            return array(value)
        if kind is dict:
            return {key: copy(item, depth + 1) for key, item in value.items()}
        if kind is list:
            return [copy(item, depth + 1) for item in value]
        if kind is tuple:
            return tuple([copy(item, depth + 1) for item in value])
        if value is None or kind in (str, bytes, bool, int, float):
            return value
        raise UserError(
            f"the file holds {_shown(value)} where a checkpoint has tensors, texts or numbers"
        )

    return copy(value, 0)


def _refused(name, argument):
    """The error for an instruction that is not one of `_Machine.run`."""
    asked = "" if argument is None else f" ({_shown(argument)})"
    return UserError(
        f"the file uses the pickle instruction {name}{asked}, which no checkpoint of tensors "
        "needs; refused, nothing was executed"
    )


class _Machine:
    """The stack machine: `run` one instruction after the other, then take the `result`."""

    def __init__(self):
        self.stack = []
        self.outer = []  # stacks below the marks
        self.memo = {}
        self.storages = {}

    def run(self, name, argument):
        """Execute one instruction; those not listed here are refused."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name == "MARK":
            self.outer.append(self.stack)
            self.stack = []
        elif name == "EMPTY_DICT":
            self.stack.append({})
        elif name == "EMPTY_LIST":
            self.stack.append([])
        elif name == "TUPLE":
            items = self.marked()  # first: it changes the stack
            self.stack.append(tuple(items))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(tuple(self.last(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            items = self.last(1) if name == "APPEND" else self.marked()
            _of(list, self.stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self.last(2) if name == "SETITEM" else self.marked()
            keys = [_key(key) for key in items[::2]]
            _of(dict, self.stack[-1]).update(zip(keys, items[1::2], strict=True))
        elif name == "GLOBAL":
            self.stack.append(_name(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            self.stack.append(_name(".".join(_of(str, part) for part in self.last(2))))
        elif name == "REDUCE":
            called, arguments = self.last(2)
            self.stack.append(_call(called, _of(tuple, arguments)))
        elif name == "BUILD":
            state = self.stack.pop()
            _set_state(self.stack[-1], state)
        elif name == "BINPERSID":
            self.stack.append(self.storage(self.stack.pop()))
        elif name == "PROTO":
            if argument > 5:
                raise UserError(f"the pickle has protocol {argument}; known are 2 to 5")
        elif name != "FRAME":  # a frame is only a hint for reading ahead
            raise _refused(name, argument)

    def last(self, count):
        """Remove and return the topmost entries, the last one last."""
        if len(self.stack) < count:
            raise IndexError("pickle stack underflow")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def marked(self):
        """Remove and return what was pushed since the last mark."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def storage(self, reference):
        """The storage that ("storage", type, key, device, count) refers to.

        Older files add None (no view).
        """
        match reference:
            case ("storage", _Name(name), str(key), str(), int(count)) if (
                name.split(".")[-1] in STORAGES
            ):
                pass
            case ("storage", _Name(name), str(key), str(), int(count), None) if (
                name.split(".")[-1] in STORAGES
            ):
                pass
            case _:
                raise UserError(
                    f"the file refers to {_shown(reference)} outside its pickle: not a block of "
                    "numbers. Save the"
                    " state_dict of the network rather than the network itself"
                )
        found = Storage(STORAGES[name.split(".")[-1]], key, _whole(count))
        if self.storages.setdefault(key, found) != found:
            raise UserError(f"the file describes its storage {_shown(key)} in two ways")
        return found

    def result(self):
        """The one thing left on the stack."""
        if self.outer or len(self.stack) != 1:
            raise ValueError("the pickle ends with an unfinished stack")
        return self.stack[0]


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_VALUES |= {"BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"}


def _tensor(storage, offset, shape, strides, *_):
    """The remaining arguments (gradient, hooks, metadata) say nothing about the values."""
    if not isinstance(storage, Storage):
        raise UserError(f"a tensor is made of {_shown(storage)}, not of a storage")
    if len(_of(tuple, shape)) != len(_of(tuple, strides)) or len(shape) > MAX_AXES:
        raise UserError(
            f"a tensor has {len(shape)} axes and {len(strides)} strides, at most {MAX_AXES} are "
            "known"
        )
    return Tensor(storage, _whole(offset), tuple(map(_whole, shape)), tuple(map(_whole, strides)))


def _parameter(data, *_):
    return _of(Tensor, data)


def _encode(text, encoding):
    """How protocol 2 writes bytes; checkpoints have those of single numbers only."""
    if len(_of(str, text)) > 64 or encoding != "latin1":
        raise UserError(f"the file encodes a text of {len(text)} characters as {_shown(encoding)}")
    return text.encode("latin1")


def _number_type(code, *_):
    if code not in SCALARS:
        raise UserError(
            f"the file asks for a NumPy number of type {_shown(code)}; known are "
            f"{', '.join(SCALARS)}"
        )
    return _NumberType(code)


def _scalar(kind, data):
    dtype = np.dtype(_of(_NumberType, kind).code).newbyteorder(kind.order)
    if len(_of(bytes, data)) != dtype.itemsize:
        raise UserError(f"a NumPy number of type {kind.code} has {len(data)} bytes")
    return np.frombuffer(data, dtype)[0].item()


def _size(shape=()):
    return _of(tuple, shape)


def _ordered_dict():
    return {}


BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.dtype": _number_type,
    "_codecs.encode": _encode,
}
_KNOWN = {
    *BUILDERS,
    *(f"{module}.{name}" for module in ("torch", "torch.cuda") for name in STORAGES),
}


def _name(text):
    if text not in _KNOWN:
        raise UserError(
            f"the file asks for {_shown(text)[1:-1]}: neither a tensor nor a container of tensors; "
            "refused, nothing was executed"
        )
    return _Name(text)


def _call(called, arguments):
    if not isinstance(called, _Name) or called.text not in BUILDERS:
        raise UserError(
            f"the file calls {_shown(called)}, which is no function; refused, nothing was executed"
        )
    return BUILDERS[called.text](*arguments)


def _set_state(target, state):
    """Set the byte order of a number type, or the notes beside a state_dict, and nothing else.

    The notes (`_metadata`) are not needed.
    """
    if type(target) is dict and type(state) is dict and set(state) <= {"_metadata"}:
        return
    if (
        isinstance(target, _NumberType)
        and type(state) is tuple
        and state[1] in ("<", ">", "|", "=")
    ):
        target.order = state[1]
        return
    raise UserError(
        f"the file sets the state of {_shown(target)}: not that of a container; refused, nothing "
        "was executed"
    )


def _key(key):
    """Keys are texts or numbers of parameters (in old files, addresses)."""
    if type(key) is str or (type(key) is int and 0 <= key < 2**63):
        return key
    raise UserError(f"a dictionary has the key {_shown(key)}, not a text or a whole number")


def _whole(value):
    if type(value) is not int or not 0 <= value < 2**63:
        raise UserError(f"a tensor has {_shown(value)} where a size belongs")
    return value


def _of(kind, value):
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def _shown(value):
    """A short text for a message.

    Containers by their kind only, since they may be nested without end.
    """
    if isinstance(value, _Name):
        return repr(value.text[:100])
    if isinstance(value, (str, bytes)):
        return repr(value[:100])
    if (
        value is None
        or (type(value) in (bool, float))
        or (type(value) is int and abs(value) < 2**64)
    ):
        return repr(value)
    if (
        type(value) is tuple
        and value
        and all(type(part) in (str, int, _Name) for part in value[:3])
    ):
        return f"({', '.join(_shown(part) for part in value[:3])}, ...)"
    return f"a {type(value).__name__.strip('_')}"
