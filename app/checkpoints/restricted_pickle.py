"""The `data.pkl` of a PyTorch checkpoint, read by a small stack machine of our own.

A pickle is a program. Python's unpicklers, restricted or not, run all of it; this machine knows
the few opcodes and names that state dicts are made of, builds inert records from them, and refuses
the rest by name. Nothing is imported, nothing of the pickle's is called, no attribute is ever set.

Source: the opcodes are documented in CPython's `pickletools`, which also splits them here.
"""

import pickletools
import re
from collections.abc import Sequence

from app.checkpoints.json_scan import shown
from app.checkpoints.torch_records import (
    GLOBALS,
    Builder,
    Malformed,
    NotPlain,
    checked_key,
    count,
    storage,
)
from app.errors import InvalidModel, TooLarge, UnsupportedFormat
from app.settings import Limits

OPCODES = 5_000_000
"""Most opcodes of a pickle; a tensor takes about 40."""
WAY_OUT = (
    "load it where you trust it, and save model.state_dict() instead, with torch.save or as "
    "safetensors"
)

_VALUES = frozenset(
    (
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    )
)
"""Opcodes that push the very value they carry."""
_QUANTIZED = "torch._utils._rebuild_qtensor"
_DOTTED = re.compile(r"[A-Za-z_][\w.]{0,199}", re.ASCII)


def read_pickle(data: bytes, limits: Limits, *, name: str) -> object:
    """What a pickle describes: dicts, lists, tuples, plain values, and `torch_records`.

    It may contain itself, or be nested to any depth: walk it neither by recursion nor twice.

    Raises:
        UnsupportedFormat: it holds anything else, which is named, with the way out.
        InvalidModel: damaged.
        TooLarge: over a limit.
    """
    if len(data) > limits.header_bytes:
        raise TooLarge(
            f"{name}: its pickle has {len(data):,} bytes; {limits.header_bytes:,} are allowed"
        )
    machine, end = _Machine(), 0
    try:
        for number, (opcode, argument, at) in enumerate(pickletools.genops(data)):
            if number == OPCODES:
                raise TooLarge(f"{name}: its pickle has over {OPCODES:,} opcodes, the most allowed")
            machine.run(opcode.name, argument)
            end = at or 0
        if end != len(data) - 1:
            raise Malformed("bytes lie behind its end")
        return machine.result()
    except NotPlain as error:
        raise UnsupportedFormat(f"{name} holds {error}; {WAY_OUT}") from error
    except (Malformed, ValueError, IndexError, KeyError) as error:
        raise InvalidModel(
            f"{name}: its pickle is damaged ({shown(str(error))}); fetch or save the file again"
        ) from error


class _Machine:
    """A pickle's stack and memo, and the effect of every opcode that is known."""

    def __init__(self) -> None:
        self._stack: list[object] = []
        self._below: list[list[object]] = []
        self._memo: dict[int, object] = {}

    def run(self, opcode: str, argument: object) -> None:
        """Do what one opcode says; those that take a value apart are left to `_collect`."""
        match opcode:
            case "BINPUT" | "LONG_BINPUT":
                self._memo[count(argument)] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                self._stack.append(self._memo[count(argument)])
            case _ if opcode in _VALUES:
                self._stack.append(argument)
            case "MARK":
                self._below.append(self._stack)
                self._stack = []
            case "GLOBAL" | "INST":
                self._stack.append(_stand_in(str(argument).replace(" ", ".")))
            case "STACK_GLOBAL":
                name, module = self._stack.pop(), self._stack.pop()
                self._stack.append(_stand_in(f"{module}.{name}"))
            case "REDUCE":
                arguments, function = self._stack.pop(), self._stack.pop()
                self._stack.append(_called(function, arguments))
            case "BUILD":
                self._stack.pop()  # the attributes of an OrderedDict: `_metadata`
                if not isinstance(self._stack[-1], dict):
                    raise Malformed("it sets attributes of what has none")
            case "BINPERSID":
                self._stack.append(storage(self._stack.pop()))
            case "POP" if self._stack:
                self._stack.pop()
            case "POP" | "POP_MARK":
                self._since_mark()
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                self._collect(opcode)

    def result(self) -> object:
        """The one value that is left."""
        if self._below or len(self._stack) != 1:
            raise Malformed("it leaves more or less than one value")
        return self._stack[0]

    def _collect(self, opcode: str) -> None:
        """Make or fill a tuple, list or dict, or push a constant."""
        match opcode:
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self._stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "EMPTY_TUPLE":
                self._stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                length = int(opcode[-1])
                if len(self._stack) < length:
                    raise Malformed("a tuple lacks items")
                self._stack[-length:] = [tuple(self._stack[-length:])]
            case "TUPLE":
                items = tuple(self._since_mark())
                self._stack.append(items)
            case "EMPTY_DICT":
                self._stack.append({})
            case "SETITEM":
                value, key = self._stack.pop(), self._stack.pop()
                self._fill_dict([key, value])
            case "SETITEMS":
                self._fill_dict(self._since_mark())
            case "EMPTY_LIST":
                self._stack.append([])
            case "APPEND":
                item = self._stack.pop()
                self._fill_list([item])
            case "APPENDS":
                self._fill_list(self._since_mark())
            case _:
                raise NotPlain(f"the pickle opcode {opcode}, which no state dict needs")

    def _since_mark(self) -> list[object]:
        found, self._stack = self._stack, self._below.pop()
        return found

    def _fill_list(self, items: Sequence[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise Malformed("it appends to what is no list")
        target.extend(items)

    def _fill_dict(self, items: Sequence[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Malformed("it sets items of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value


def _stand_in(name: str) -> object:
    """The inert record for a global; never the global."""
    if name in GLOBALS:
        return GLOBALS[name]
    if name == _QUANTIZED:
        raise NotPlain("quantized tensors, and only weights as they were before can be palettized")
    said = name if _DOTTED.fullmatch(name) else shown(name)
    raise NotPlain(f"a pickled {said}: loading it would run code")


def _called(function: object, arguments: object) -> object:
    if not isinstance(function, Builder) or not isinstance(arguments, tuple):
        raise Malformed("it calls what cannot be called")
    return function.build(arguments)
