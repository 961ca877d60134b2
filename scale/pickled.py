"""What a pickle says, without doing what it says: no code runs.

A pickle is a program for a small machine with a stack; loading it runs that program, which may call any function there
is. `read` is such a machine that knows no call. Numbers, text, lists, tuples and dicts are built; where the program
calls f(a, b) it leaves the words `Call("module.f", (a, b))`, and only for the names below. `array` then makes of the
words for a numpy array that array, and nothing else is ever made of words.

    numpy     _reconstruct(ndarray, (0,), b"b"), and then a state (version, shape, dtype, Fortran's order?, bytes)
    dill      _create_array(_reconstruct, ..., state, None), as does jax: _reconstruct_array(...)
    Haiku     FlatMapping({...}), for its dicts
    protocol 2 has no bytes: _codecs.encode("text", "latin1")

Long text and bytes stay in the file until an array asks for them. So memory is bounded by the number of operations
and by the arrays that are asked for, which together may not be larger than the file.
"""

import math
import pickletools
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semppl_mini.files import shown

MAX_OPERATIONS = 2**20  # a ResNet-200 with its target and optimizer: 4,000 arrays of 50 each
LONG = 1000  # bytes; longer text stays in the file
ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "numpy.core.multiarray.scalar",
          "numpy._core.multiarray.scalar", "numpy.ndarray", "numpy.dtype", "_codecs.encode")  # fmt: skip
WITH_STATE = ("dill._dill._create_array", "jax._src.array._reconstruct_array")  # their third argument is the state
MAPPINGS = ("haiku._src.data_structures.FlatMapping", "haiku._src.data_structures.FlatMap")
PACKAGES = ("haiku", "jax", "jaxlib", "optax", "semppl")  # of optimizers and random keys, which nobody asks for
SIZED = {"SHORT_BINUNICODE": 1, "BINUNICODE": 4, "BINUNICODE8": 8,
         "SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8}  # bytes of their length  # fmt: skip
OTHERS = {"PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
          "BINFLOAT", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS",
          "EMPTY_DICT", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL",
          "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD"}  # fmt: skip


class Refused(ValueError):
    """What is wrong with a pickle, in words that follow the file's name."""


@dataclass(frozen=True)
class Span:
    """Long text or bytes: where they lie in the file."""

    at: int
    size: int


class Name(str):
    """A function or class that the pickle names, "module.name"; never looked up."""


@dataclass(eq=False)
class Call:
    """A call that the pickle would make, and the state that it would give to what comes out."""

    name: Name
    args: tuple
    state: object = None


def read(path, use):
    """use(value, array) of the pickle in a file, where array(call) -> numpy array. ValueError, in one sentence: it is
    damaged or hostile, or `use` misses something."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}; give a checkpoint.")
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            value = _run(_operations(file, size))
            return use(value, _arrays(file, size))
    except Refused as error:
        raise ValueError(f"{path} {error}.") from None
    except (ValueError, LookupError, TypeError, AttributeError, struct.error) as error:  # all that damage comes to
        said = f"{type(error).__name__}: {shown(str(error))}"
        raise ValueError(f"{path} is no whole pickle ({said}); fetch it again.") from None


def _operations(file, size: int):
    """(name, argument) of each operation, up to STOP."""
    for _ in range(MAX_OPERATIONS):
        opcode = pickletools.code2op[file.read(1).decode("latin1")]  # KeyError at the file's end
        if opcode.name in SIZED:
            yield opcode.name, _sized(file, size, opcode.name)
        elif opcode.name == "GLOBAL":
            yield opcode.name, [_line(file), _line(file)]
        elif opcode.name in OTHERS:
            yield opcode.name, opcode.arg.reader(file) if opcode.arg else None  # at most 255 bytes
        else:
            raise Refused(f"uses {opcode.name}, which no checkpoint of arrays needs")
        if opcode.name == "STOP":
            return
    raise Refused(f"has more than {MAX_OPERATIONS} operations, the limit")


def _sized(file, size: int, name: str):
    """Short text or bytes, or the Span of long ones, which are stepped over."""
    n = int.from_bytes(file.read(SIZED[name]), "little")
    if n > size - (at := file.tell()):
        raise Refused(f"is cut off: {n} bytes of text are to follow and {size - at} do")
    if n > LONG:
        file.seek(n, 1)
        return Span(at, n)
    return file.read(n).decode() if "UNICODE" in name else file.read(n)


def _line(file) -> str:
    line = file.readline(200)
    if not line.endswith(b"\n"):
        raise Refused("names something in more than 200 letters")
    return line[:-1].decode("ascii")


def _named(module, name) -> Name:
    full = f"{module}.{name}"
    known = full in (*ARRAYS, *WITH_STATE, *MAPPINGS) or full.split(".")[0] in PACKAGES
    if not (known and re.fullmatch(r"[\w.]+", full)):
        raise Refused(f"asks for {shown(full)}, which is no part of a checkpoint of arrays; nothing of it was run")
    return Name(full)


def _run(operations):
    """The machine: the value on its stack at the end. `marked`: the stacks below each MARK."""
    stack, marked, memo = [], [], {}
    for name, arg in operations:
        if name in ("TUPLE", "APPENDS", "SETITEMS"):  # of all since the last mark
            arg, stack = stack, marked.pop()
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "SETITEM", "REDUCE", "NEWOBJ", "BUILD", "STACK_GLOBAL"):
            n = {"TUPLE1": 1, "APPEND": 1, "BUILD": 1, "TUPLE3": 3}.get(name, 2)
            arg = [stack.pop() for _ in range(n)][::-1]
        match name:
            case "STOP":
                return stack.pop()
            case "MARK":
                marked.append(stack)
                stack = []
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_TUPLE" | "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(arg or ()))
            case "EMPTY_LIST" | "EMPTY_DICT":
                stack.append([] if name == "EMPTY_LIST" else {})
            case "APPEND" | "APPENDS":
                _of(list, stack[-1]).extend(arg)
            case "SETITEM" | "SETITEMS":
                _of(dict, stack[-1]).update(zip(map(_key, arg[::2]), arg[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if name == "MEMOIZE" else arg] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "GLOBAL" | "STACK_GLOBAL":
                stack.append(_named(*(_of(str, part) for part in arg)))
            case "REDUCE" | "NEWOBJ":
                stack.append(Call(_of(Name, arg[0]), _of(tuple, arg[1])))
            case "BUILD":
                _of(Call, stack[-1]).state = arg[0]
            case "PROTO" | "FRAME":
                pass
            case _:
                stack.append(arg)  # numbers and text


def _of(kind: type, value):
    if not isinstance(value, kind):
        raise Refused(f"is damaged: a {type(value).__name__} stands where a {kind.__name__} belongs")
    return value


def _key(value):
    """The key of a dict; nothing nested, whose hash may take for ever."""
    return value if type(value) is int else _of(str, value)


def mapping(value) -> dict:
    """A dict, or the one within Haiku's words for one."""
    if isinstance(value, Call) and value.name in MAPPINGS and len(value.args) == 1:
        value = value.args[0]
    return _of(dict, value)


def _state(value) -> tuple:
    """(shape, dtype, Fortran's order?, bytes) of the words for an array."""
    state = value.args[2] if _of(Call, value).name in WITH_STATE else value.state
    _, shape, dtype, fortran, raw = _of(tuple, state)
    kind, order = _of(str, _of(Call, dtype).args[0]), _of(str, _of(tuple, dtype.state)[1])
    if dtype.name != "numpy.dtype" or kind not in ("f2", "f4", "f8") or order not in ("<", ">"):
        raise Refused(f"holds an array of type {shown(kind)}; floats of 2, 4 or 8 bytes are read")
    if len(shape) > 8 or not all(type(n) is int and n > 0 for n in _of(tuple, shape)):
        raise Refused("holds an array whose shape is not of whole numbers from 1 on, 8 at most")
    return shape, np.dtype(order + kind), fortran, raw


def _arrays(file, size: int):
    """The function that makes an array of the words for one."""
    left = size

    def bytes_of(raw) -> bytes:
        if latin := isinstance(raw, Call) and raw.name == "_codecs.encode" and raw.args[1:] == ("latin1",):
            raw = raw.args[0]
        if isinstance(raw, Span):
            file.seek(raw.at)
            raw = file.read(raw.size)
        held = raw.encode() if isinstance(raw, str) else _of(bytes, raw)
        return held.decode().encode("latin1") if latin else held

    def array(value) -> np.ndarray:
        nonlocal left
        shape, dtype, fortran, raw = _state(value)
        if (n := math.prod(shape) * dtype.itemsize) > left:
            raise Refused(f"promises more than it holds: arrays of more than its {size} bytes")
        left -= n
        if len(held := bytes_of(raw)) != n:
            raise Refused(f"is damaged: an array of shape {shape} has {len(held)} bytes, not {n}")
        return np.frombuffer(held, dtype).reshape(shape, order="F" if fortran else "C")

    return array
