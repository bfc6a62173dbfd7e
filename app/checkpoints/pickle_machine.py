"""Interpreter of the pickles of state dicts; it builds inert records, and calls nothing.

The time of each opcode is proportional to its bytes, except for calls: their arguments may be built
once and used many times. So calls may not read more values in total than the bytes of the pickle up
to there. A dict's keys are interned strings, or objects that hash by identity, so no pickle can
cause hash collisions.

Source: CPython's `pickletools` documents the opcodes.
"""

import pickletools
import struct
from collections.abc import Callable, Mapping, Sequence

from palettery.app.checkpoints.pickle_bytes import PickleBytes
from palettery.app.checkpoints.torch_builders import build_parameter, dict_key
from palettery.app.checkpoints.torch_globals import (
    FROM_TYPE,
    parse_typed_call,
    resolve_global,
)
from palettery.app.checkpoints.torch_records import (
    Builder,
    MalformedPickleError,
    StorageRef,
    TensorClass,
    UnsupportedPickleError,
    parse_storage,
)
from palettery.app.errors import TooLarge
from palettery.app.settings import Limits

OPCODES_PER_TENSOR, SPARE_OPCODES = 20, 10_000
"""Maximum number of opcodes: for each allowed tensor, plus a constant. A tensor takes about 40, so
one pickle may describe half as many tensors as all shards together."""

_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_CODES = {name: code for code, name in _NAMES.items()}
_FLOAT = struct.Struct(">d")
_STOP = ord(".")
_EMPTY = object()
"""An unused entry of the memo."""


class PickleMachine:
    """Interpreter with a stack and a memo; it reads one pickle after another."""

    def __init__(self, data: bytes, limits: Limits) -> None:
        self.source, self._limits = PickleBytes(data), limits
        self.storages: dict[str, StorageRef] = {}
        """Key -> storage, of every storage that a pickle refers to."""
        self.stack: list[object] = []
        self._outer_stacks: list[list[object]] = []
        self._memo: list[object] = []
        self._texts: dict[str, str] = {}
        self._values_read_by_calls = 0

    def run(self) -> object:
        """Return the value of the next pickle.

        Raises:
            TruncatedPickleError: the bytes end before the pickle does.
            MalformedPickleError, ValueError, IndexError, KeyError: no pickler writes it.
            UnsupportedPickleError: it contains what only code can create.
            TooLarge: over a limit.
        """
        max_opcodes = SPARE_OPCODES + OPCODES_PER_TENSOR * self._limits.tensors
        self.stack, self._outer_stacks, self._memo = [], [], []
        for _ in range(max_opcodes):
            (code,) = self.source.take(1)
            if code == _STOP:
                return self._result()
            execute = _OPCODES.get(code)
            if execute is None:
                raise self._unsupported(code)
            execute(self)
        raise TooLarge(
            f"its pickle has over {max_opcodes:,} opcodes; {SPARE_OPCODES:,} are allowed, and "
            f"{OPCODES_PER_TENSOR} for each tensor, of which {self._limits.allowed('tensors')}"
        )

    def _result(self) -> object:
        if self._outer_stacks or len(self.stack) != 1:
            raise MalformedPickleError("its stack does not end with one value")
        return self.stack[0]

    def _unsupported(self, code: int) -> Exception:
        if code not in _NAMES:
            return MalformedPickleError(f"the unknown opcode {code:#x}")
        return UnsupportedPickleError(
            f"the pickle opcode {_NAMES[code]}, which no state dict needs"
        )

    # Values

    def push(self, value: object) -> None:
        """Push a value."""
        self.stack.append(value)

    def push_text(self, size: int) -> None:
        """Push a string; equal strings are one object, so that comparisons take constant time."""
        text = self.source.take(size).decode("utf-8", "surrogatepass")
        self.stack.append(self._texts.setdefault(text, text))

    def push_integer(self, size: int) -> None:
        """Push a signed integer of `size` bytes."""
        self.stack.append(int.from_bytes(self.source.take(size), "little", signed=True))

    def push_float(self) -> None:
        """Push a float."""
        self.stack.append(_FLOAT.unpack(self.source.take(8))[0])

    # Memo

    def put(self, number: int) -> None:
        """Store the top of the stack in the memo; picklers number from 0 or 1, without gaps."""
        if number > self.source.position:
            raise MalformedPickleError("a number in its memo that no pickler writes")
        self._memo += [_EMPTY] * (number + 1 - len(self._memo))
        self._memo[number] = self.stack[-1]

    def memoize(self) -> None:
        """Store the top of the stack in the memo under the next number."""
        self._memo.append(self.stack[-1])

    def get(self, number: int) -> None:
        """Push a value of the memo."""
        if number >= len(self._memo) or self._memo[number] is _EMPTY:
            raise MalformedPickleError("it reads an unused entry of its memo")
        self.stack.append(self._memo[number])

    # Containers

    def mark(self) -> None:
        """Begin a new stack, which `pop_mark` ends."""
        self._outer_stacks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[object]:
        """End the current stack and return its values."""
        values, self.stack = self.stack, self._outer_stacks.pop()
        return values

    def pop(self) -> None:
        """Drop the top of the stack, or a mark."""
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def join_tuple(self, length: int) -> None:
        """Replace the top values with a tuple of them."""
        if len(self.stack) < length:
            raise MalformedPickleError("a tuple lacks items")
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def fill_list(self, items: Sequence[object]) -> None:
        """Append items to the list on top of the stack; a set is a list here."""
        target = self.stack[-1]
        if not isinstance(target, list):
            raise MalformedPickleError("it appends to a value that is no list")
        target.extend(items)

    def set_item(self) -> None:
        """Set one item of the dict on top of the stack."""
        value, key = self.stack.pop(), self.stack.pop()
        self.fill_dict([key, value])

    def fill_dict(self, items: Sequence[object]) -> None:
        """Set items of the dict on top of the stack; keys and values alternate."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise MalformedPickleError("it sets items of a value that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[dict_key(key)] = value

    # Names and calls

    def stack_global(self) -> None:
        """Push the replacement of a global."""
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise MalformedPickleError("a name that is no string")
        self.stack.append(resolve_global(f"{module}.{name}"))

    def reduce(self) -> None:
        """Push the result of a call."""
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(function, arguments))

    def _call(self, function: object, arguments: object) -> object:
        if not isinstance(arguments, tuple):
            raise MalformedPickleError("a call without a tuple of arguments")
        if function is FROM_TYPE:
            function, arguments = parse_typed_call(arguments)
        if isinstance(function, TensorClass):
            return build_parameter(arguments)
        if not isinstance(function, Builder):
            raise MalformedPickleError("it calls a value that is no function")
        self._values_read_by_calls += sum(map(_values_read, arguments))
        if self._values_read_by_calls > self.source.position:
            raise TooLarge(
                f"calls in its pickle read over {self.source.position:,} values by its byte "
                f"{self.source.position:,}, and may read one for each byte; no pickler writes such "
                "calls: save the model again"
            )
        return function.build(arguments)

    def new_object(self) -> None:
        """Push a new object of a class."""
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, TensorClass) and arguments != ():
            raise MalformedPickleError("it creates an object of a value that is no class")
        self.stack.append(self._call(kind, arguments))

    def build(self) -> None:
        """Drop the attributes of an object, such as an OrderedDict's `_metadata`."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise MalformedPickleError("it sets attributes of a value that has none")

    def push_storage(self) -> None:
        """Push the storage that a persistent id refers to."""
        whole, part = parse_storage(self.stack.pop())
        first = self.storages.setdefault(whole.key, whole)
        # A storage may have several dtypes; the comparison of sizes alone would be slower.
        is_same = first.numel == whole.numel and first.dtype == whole.dtype
        if not is_same and first.size_bytes() != whole.size_bytes():
            raise MalformedPickleError(f"its storage {whole.key} has two sizes")
        self.stack.append(first if part == first else part)  # equal ones take memory once


def _values_read(argument: object) -> int:
    """Return how many values a call reads of an argument; a string is read 8 bytes at a time."""
    if isinstance(argument, tuple | list | dict):
        return len(argument)
    return len(argument) // 8 if isinstance(argument, str | bytes) else 0


_OPCODES: Mapping[int, Callable[[PickleMachine], object]] = {
    _CODES[name]: execute
    for name, execute in {
        "PROTO": lambda m: m.source.take(1),
        "FRAME": lambda m: m.source.take(8),
        "NONE": lambda m: m.push(None),
        "NEWTRUE": lambda m: m.push(True),
        "NEWFALSE": lambda m: m.push(False),
        "BININT": lambda m: m.push_integer(4),
        "BININT1": lambda m: m.push(m.source.take_unsigned(1)),
        "BININT2": lambda m: m.push(m.source.take_unsigned(2)),
        "LONG1": lambda m: m.push_integer(m.source.take_unsigned(1)),
        "BINFLOAT": PickleMachine.push_float,
        "SHORT_BINUNICODE": lambda m: m.push_text(m.source.take_unsigned(1)),
        "BINUNICODE": lambda m: m.push_text(m.source.take_unsigned(4)),
        "BINUNICODE8": lambda m: m.push_text(m.source.take_unsigned(8)),
        # The strings of Python 2, decoded as torch does.
        "SHORT_BINSTRING": lambda m: m.push_text(m.source.take_unsigned(1)),
        "BINSTRING": lambda m: m.push_text(m.source.take_unsigned(4)),
        "SHORT_BINBYTES": lambda m: m.push(m.source.take(m.source.take_unsigned(1))),
        "BINBYTES": lambda m: m.push(m.source.take(m.source.take_unsigned(4))),
        "BINBYTES8": lambda m: m.push(m.source.take(m.source.take_unsigned(8))),
        "BYTEARRAY8": lambda m: m.push(m.source.take(m.source.take_unsigned(8))),
        "BINPUT": lambda m: m.put(m.source.take_unsigned(1)),
        "LONG_BINPUT": lambda m: m.put(m.source.take_unsigned(4)),
        "MEMOIZE": PickleMachine.memoize,
        "BINGET": lambda m: m.get(m.source.take_unsigned(1)),
        "LONG_BINGET": lambda m: m.get(m.source.take_unsigned(4)),
        "MARK": PickleMachine.mark,
        "POP": PickleMachine.pop,
        "POP_MARK": PickleMachine.pop_mark,
        "EMPTY_TUPLE": lambda m: m.push(()),
        "TUPLE1": lambda m: m.join_tuple(1),
        "TUPLE2": lambda m: m.join_tuple(2),
        "TUPLE3": lambda m: m.join_tuple(3),
        "TUPLE": lambda m: m.push(tuple(m.pop_mark())),
        "EMPTY_LIST": lambda m: m.push([]),
        "APPEND": lambda m: m.fill_list([m.stack.pop()]),
        "APPENDS": lambda m: m.fill_list(m.pop_mark()),
        "EMPTY_SET": lambda m: m.push([]),
        "ADDITEMS": lambda m: m.fill_list(m.pop_mark()),
        "EMPTY_DICT": lambda m: m.push({}),
        "SETITEM": PickleMachine.set_item,
        "SETITEMS": lambda m: m.fill_dict(m.pop_mark()),
        "GLOBAL": lambda m: m.push(
            resolve_global(f"{m.source.take_line()}.{m.source.take_line()}")
        ),
        "INST": lambda m: m.push(resolve_global(f"{m.source.take_line()}.{m.source.take_line()}")),
        "STACK_GLOBAL": PickleMachine.stack_global,
        "REDUCE": PickleMachine.reduce,
        "NEWOBJ": PickleMachine.new_object,
        "BUILD": PickleMachine.build,
        "BINPERSID": PickleMachine.push_storage,
    }.items()
}
"""Opcode -> the function that executes it."""
