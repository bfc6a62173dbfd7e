"""A stack machine for the pickles of state dicts: it builds inert records, and runs nothing.

Each opcode takes constant time beside its own bytes. Only a call could cost more, by arguments that
were built once and are used again and again: what calls read is counted against the bytes so far.
A dict's keys are interned text, or objects that hash by identity, so no pickle makes keys collide.

Source: the opcodes are documented in CPython's `pickletools`.
"""

import pickletools
import re
import struct
from collections.abc import Callable, Mapping, Sequence

from palettery.app.checkpoints.json_scanner import quote_text
from palettery.app.checkpoints.torch_records import (
    FROM_TYPE,
    GLOBALS,
    Builder,
    MalformedPickleError,
    StorageRef,
    TensorClass,
    UnsupportedPickleError,
    advice_for,
    dict_key,
    parameter,
    parse_typed_call,
    storage,
)
from palettery.app.errors import TooLarge
from palettery.app.settings import Limits

OPCODES_PER_TENSOR, SPARE_OPCODES = 20, 10_000
"""Most opcodes of a pickle, for each tensor that a checkpoint may have, and beside those. A tensor
takes about 40, so one pickle may describe half as many tensors as all shards together."""

_DOTTED = re.compile(r"[A-Za-z_][\w.]{0,199}", re.ASCII)
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_CODES = {name: code for code, name in _NAMES.items()}
_FLOAT = struct.Struct(">d")
_STOP = ord(".")
_EMPTY = object()
"""Where the memo holds no value."""


class TruncatedPickleError(MalformedPickleError):
    """The bytes end before the pickle does."""


class PickleMachine:
    """A pickle's stack and memo, and the effect of every opcode that is known."""

    def __init__(self, data: bytes, limits: Limits, at: int = 0) -> None:
        self._data, self._start, self._limits = data, at, limits
        self.at = at
        """The byte behind what was read so far."""
        self.storages: dict[str, StorageRef] = {}
        """Each storage that was referred to, as it was first."""
        self.stack: list[object] = []
        self._below: list[list[object]] = []
        self._memo: list[object] = []
        self._texts: dict[str, str] = {}
        self._read_by_calls = 0

    def run(self) -> object:
        """Read the next pickle; the value that it leaves.

        Raises:
            Truncated: the bytes end before it does.
            Malformed, ValueError, IndexError, KeyError: no pickler wrote it.
            NotPlain: it holds what only code can make.
            TooLarge: over a limit.
        """
        data, most = self._data, SPARE_OPCODES + OPCODES_PER_TENSOR * self._limits.tensors
        self.stack, self._below, self._memo = [], [], []
        for _ in range(most):
            if self.at >= len(data):
                raise TruncatedPickleError("it ends too early")
            code = data[self.at]
            self.at += 1
            if code == _STOP:
                return self._result()
            step = _OPCODES.get(code)
            if step is None:
                raise self._unknown(code)
            step(self)
        raise TooLarge(
            f"its pickle has over {most:,} opcodes; {SPARE_OPCODES:,} are allowed, and "
            f"{OPCODES_PER_TENSOR} for each tensor, of which {self._limits.allowed('tensors')}"
        )

    def _result(self) -> object:
        if self._below or len(self.stack) != 1:
            raise MalformedPickleError("it leaves more or less than one value")
        return self.stack[0]

    def _unknown(self, code: int) -> Exception:
        if code not in _NAMES:
            return MalformedPickleError(f"an opcode {code:#x}, which there is not")
        return UnsupportedPickleError(
            f"the pickle opcode {_NAMES[code]}, which no state dict needs"
        )

    # Bytes

    def take(self, size: int) -> bytes:
        """The next bytes."""
        start, end = self.at, self.at + size
        if end > len(self._data):
            raise TruncatedPickleError("it ends too early")
        self.at = end
        return self._data[start:end]

    def whole(self, size: int) -> int:
        """A number of so many bytes, from 0."""
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        """The text up to the next line feed."""
        end = self._data.find(b"\n", self.at)
        if end < 0:
            raise TruncatedPickleError("it ends too early")
        return self.take(end + 1 - self.at)[:-1].decode()

    # Values

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def push_text(self, size: int) -> None:
        """Put text on the stack; equal texts are one object, compared in no time."""
        text = self.take(size).decode("utf-8", "surrogatepass")
        self.stack.append(self._texts.setdefault(text, text))

    def push_integer(self, size: int) -> None:
        """Put a whole number of so many bytes on the stack."""
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def push_float(self) -> None:
        """Put a number on the stack."""
        self.stack.append(_FLOAT.unpack(self.take(8))[0])

    # Memo

    def put(self, number: int) -> None:
        """Remember the top of the stack; picklers number from 0 or 1, without gaps."""
        if number > self.at - self._start:
            raise MalformedPickleError("a number in its memo that no pickler has come to")
        self._memo += [_EMPTY] * (number + 1 - len(self._memo))
        self._memo[number] = self.stack[-1]

    def memoize(self) -> None:
        """Remember the top of the stack under the next number."""
        self._memo.append(self.stack[-1])

    def get(self, number: int) -> None:
        """Put a remembered value on the stack."""
        if number >= len(self._memo) or self._memo[number] is _EMPTY:
            raise MalformedPickleError("it refers to what it did not make")
        self.stack.append(self._memo[number])

    # Containers

    def mark(self) -> None:
        """Begin a new stack."""
        self._below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[object]:
        """End the stack that the last mark began; its values."""
        found, self.stack = self.stack, self._below.pop()
        return found

    def pop(self) -> None:
        """Drop the top of the stack, or a mark."""
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def join_tuple(self, length: int) -> None:
        """Make a tuple of the top of the stack."""
        if len(self.stack) < length:
            raise MalformedPickleError("a tuple lacks items")
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def fill_list(self, items: Sequence[object]) -> None:
        """Add items to the list, or to the set, on the stack."""
        target = self.stack[-1]
        if not isinstance(target, list):
            raise MalformedPickleError("it appends to what is no list")
        target.extend(items)

    def set_item(self) -> None:
        """Set one item of the dict on the stack."""
        value, key = self.stack.pop(), self.stack.pop()
        self.fill_dict([key, value])

    def fill_dict(self, items: Sequence[object]) -> None:
        """Set items of the dict on the stack: keys and values in turn."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise MalformedPickleError("it sets items of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[dict_key(key)] = value

    # Names and calls

    def stack_global(self) -> None:
        """Put what stands in for a name on the stack."""
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise MalformedPickleError("a name that is no text")
        self.stack.append(_resolve_global(f"{module}.{name}"))

    def reduce(self) -> None:
        """Put what a call gives on the stack."""
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self._called(function, arguments))

    def _called(self, function: object, arguments: object) -> object:
        if not isinstance(arguments, tuple):
            raise MalformedPickleError("a call with something else than a tuple")
        if function is FROM_TYPE:
            function, arguments = parse_typed_call(arguments)
        if isinstance(function, TensorClass):
            return parameter(arguments)
        if not isinstance(function, Builder):
            raise MalformedPickleError("it calls what cannot be called")
        self._read_by_calls += sum(map(_length, arguments))
        if self._read_by_calls > self.at - self._start:
            raise TooLarge(
                f"calls in its pickle read over {self.at - self._start:,} values by its byte "
                f"{self.at:,}, and may read one for each byte; no pickler writes such: save the "
                "model again"
            )
        return function.build(arguments)

    def new_object(self) -> None:
        """Put a new object of a class on the stack."""
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, TensorClass) and arguments != ():
            raise MalformedPickleError("it makes an object of what is no class")
        self.stack.append(self._called(kind, arguments))

    def build(self) -> None:
        """Leave out the attributes of an object: an OrderedDict's `_metadata`."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise MalformedPickleError("it sets attributes of what has none")

    def persistent(self) -> None:
        """Put the storage that an id stands for on the stack."""
        whole, part = storage(self.stack.pop())
        known = self.storages.setdefault(whole.key, whole)
        is_same = known.numel == whole.numel and known.dtype == whole.dtype
        if not is_same and known.size_bytes() != whole.size_bytes():
            raise MalformedPickleError(f"its storage {whole.key} has two sizes")
        self.stack.append(part)


def _length(argument: object) -> int:
    """Values that a call reads of an argument; text is copied eight characters at a time."""
    if isinstance(argument, tuple | list | dict):
        return len(argument)
    return len(argument) // 8 if isinstance(argument, str | bytes) else 0


def _resolve_global(name: str) -> object:
    """The inert record for a global; never the global."""
    if name in GLOBALS:
        return GLOBALS[name]
    named = name if _DOTTED.fullmatch(name) else quote_text(name)
    raise UnsupportedPickleError(f"a pickled {named}: loading it would run code", advice_for(name))


_OPCODES: Mapping[int, Callable[[PickleMachine], object]] = {
    _CODES[name]: step
    for name, step in {
        "PROTO": lambda m: m.take(1),
        "FRAME": lambda m: m.take(8),
        "NONE": lambda m: m.push(None),
        "NEWTRUE": lambda m: m.push(True),
        "NEWFALSE": lambda m: m.push(False),
        "BININT": lambda m: m.push_integer(4),
        "BININT1": lambda m: m.push(m.whole(1)),
        "BININT2": lambda m: m.push(m.whole(2)),
        "LONG1": lambda m: m.push_integer(m.whole(1)),
        "BINFLOAT": PickleMachine.push_float,
        "SHORT_BINUNICODE": lambda m: m.push_text(m.whole(1)),
        "BINUNICODE": lambda m: m.push_text(m.whole(4)),
        "BINUNICODE8": lambda m: m.push_text(m.whole(8)),
        "SHORT_BINSTRING": lambda m: m.push_text(m.whole(1)),  # of Python 2, read as torch does
        "BINSTRING": lambda m: m.push_text(m.whole(4)),
        "SHORT_BINBYTES": lambda m: m.push(m.take(m.whole(1))),
        "BINBYTES": lambda m: m.push(m.take(m.whole(4))),
        "BINBYTES8": lambda m: m.push(m.take(m.whole(8))),
        "BYTEARRAY8": lambda m: m.push(m.take(m.whole(8))),
        "BINPUT": lambda m: m.put(m.whole(1)),
        "LONG_BINPUT": lambda m: m.put(m.whole(4)),
        "MEMOIZE": PickleMachine.memoize,
        "BINGET": lambda m: m.get(m.whole(1)),
        "LONG_BINGET": lambda m: m.get(m.whole(4)),
        "MARK": PickleMachine.mark,
        "POP": PickleMachine.pop,
        "POP_MARK": PickleMachine.since_mark,
        "EMPTY_TUPLE": lambda m: m.push(()),
        "TUPLE1": lambda m: m.join_tuple(1),
        "TUPLE2": lambda m: m.join_tuple(2),
        "TUPLE3": lambda m: m.join_tuple(3),
        "TUPLE": lambda m: m.push(tuple(m.since_mark())),
        "EMPTY_LIST": lambda m: m.push([]),
        "APPEND": lambda m: m.fill_list([m.stack.pop()]),
        "APPENDS": lambda m: m.fill_list(m.since_mark()),
        "EMPTY_SET": lambda m: m.push([]),
        "ADDITEMS": lambda m: m.fill_list(m.since_mark()),
        "EMPTY_DICT": lambda m: m.push({}),
        "SETITEM": PickleMachine.set_item,
        "SETITEMS": lambda m: m.fill_dict(m.since_mark()),
        "GLOBAL": lambda m: m.push(_resolve_global(f"{m.line()}.{m.line()}")),
        "INST": lambda m: m.push(_resolve_global(f"{m.line()}.{m.line()}")),
        "STACK_GLOBAL": PickleMachine.stack_global,
        "REDUCE": PickleMachine.reduce,
        "NEWOBJ": PickleMachine.new_object,
        "BUILD": PickleMachine.build,
        "BINPERSID": PickleMachine.persistent,
    }.items()
}
"""The effect of each opcode, by its byte."""
