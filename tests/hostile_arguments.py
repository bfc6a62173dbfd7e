"""Arguments for operators of torch that are out of range, of wrong shapes, or otherwise hostile."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from palettery.app.checkpoints.pt2_operators import accepts_field

SMALLEST, LARGEST = -(1 << 63), (1 << 63) - 1
INTS = (
    *(SMALLEST, SMALLEST + 1, LARGEST, LARGEST - 1, -(1 << 31), (1 << 31) - 1, 1 << 31, 1 << 32),
    *(1 << 62, -(1 << 62), 1 << 40, 1 << 20, -1, -2, -3, -100, 0, 1, 2, 3, 5, 8, 17, 100, 1000),
)
FLOATS = (
    *(math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 0.5, 1.0, 2.0, 1e-300, -1e-300, 1e300),
    *(-1e300, 1e9, -1e9, 1e-9, 3.4e38, 1e19, -1e19, 65504.0, 5e-324),
)
WORDS = (
    "none",
    "tanh",
    "sum",
    "",
    "reflect",
    "floor",
    "trunc",
    "ij",
    "xy",
    "ij,jk->ik",
    "i...->i",
    "right",
)
DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32),
    *(torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128),
    *(torch.float8_e4m3fn, torch.uint16, torch.uint32, torch.complex32),
)
FORMATS = (
    *(torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d),
)
SHAPES = ((), (0,), (1,), (3,), (2, 0), (0, 3), (1, 1), (2, 3), (2, 3, 4), (1, 0, 4), (2, 3, 4, 5))

FIELDS = {
    torch.Tensor: "as_tensor",
    bool: "as_bool",
    int: "as_int",
    float: "as_float",
    complex: "as_complex",
    str: "as_string",
    torch.dtype: "as_scalar_type",
    torch.memory_format: "as_memory_format",
    torch.layout: "as_layout",
    torch.device: "as_device",
}
Value = Any
"""An argument: a tensor, a number, a list of them, and so on."""


class Hostile:
    """Arguments of a call, honest ones changed at a few places."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - no secrets
        self.torch = torch.Generator().manual_seed(seed)

    def call(
        self, calls: Sequence[Mapping[str, Any]], types: Mapping[str, str]
    ) -> dict[str, Value]:
        """Arguments by name, each of a kind that a graph may have for it."""
        pick = self.random
        given = {name: self.honest(value) for name, value in pick.choice(calls).items()}
        for name, kind in types.items():
            if name not in given and (
                kind == "Device" or (kind.endswith("?") and pick.random() < 0.2)
            ):
                given[name] = self.any(kind)
        for name in (
            pick.choices([*given], k=pick.choice((0, 1, 1, 1, 2, 2, 3, 6))) if given else ()
        ):
            changed = self.changed(given[name], given)
            if not suits(types[name], changed):
                changed = self.any(types[name])
            given[name] = changed
        return given

    def honest(self, argument: Any) -> Value:
        """What a description of an argument stands for."""
        match argument:
            case {"tensor": shape, "dtype": dtype}:
                return self.tensor(shape, getattr(torch, dtype))
            case {"dtype": name} | {"memory_format": name} | {"layout": name}:
                return getattr(torch, name)
            case {"complex": [real, imaginary]}:
                return complex(real, imaginary)
            case {"float": text}:
                return float(text)
            case list():
                return [self.honest(each) for each in argument]
        return argument

    def tensor(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Plain numbers; small ones where they may be indices."""
        if dtype.is_floating_point or dtype.is_complex:
            kind = torch.complex64 if dtype.is_complex else torch.float32
            return torch.randn(tuple(shape), dtype=kind, generator=self.torch).to(dtype)
        return torch.randint(0, 2, tuple(shape), generator=self.torch).to(dtype)

    def changed(self, value: Value, given: Mapping[str, Value]) -> Value:
        """Another value in place of one, or one like it with something wrong in it."""
        pick = self.random
        match value:
            case torch.Tensor():
                return self._changed_tensor(value, given)
            case bool():
                return not value
            case int():
                return pick.choice((pick.choice(INTS), value + pick.randint(-2, 2)))
            case float():
                return pick.choice(FLOATS)
            case complex():
                return complex(pick.choice(FLOATS), pick.choice(FLOATS))
            case str():
                return pick.choice(WORDS)
            case torch.dtype():
                return pick.choice(DTYPES)
            case torch.memory_format():
                return pick.choice(FORMATS)
            case list():
                return self._changed_list(value, given)
        return None

    def _changed_list(self, value: list[Value], given: Mapping[str, Value]) -> list[Value]:
        pick = self.random
        match pick.randrange(6):
            case 0:
                return value[: pick.randint(0, len(value))]
            case 1:
                return [*value, *(value or [pick.choice(INTS)])][: pick.randint(1, 7)]
            case 2:
                return [self.changed(each, given) for each in value]
            case _ if value:
                at = pick.randrange(len(value))
                return [*value[:at], self.changed(value[at], given), *value[at + 1 :]]
        return [pick.choice(INTS)]

    def _changed_tensor(self, value: torch.Tensor, given: Mapping[str, Value]) -> torch.Tensor:
        pick = self.random
        match pick.randrange(8):
            case 0:
                return self.values(value.shape, pick.choice(DTYPES))
            case 1 | 2:
                return self.values(self._shape(value.shape), value.dtype)
            case 3 | 4 | 5:
                return self.values(value.shape, value.dtype)
            case 6:
                return self._strided(value)
        others = [each for each in given.values() if isinstance(each, torch.Tensor)]
        return pick.choice(others or [value])

    def _shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        pick, shape = self.random, list(shape)
        match pick.randrange(6):
            case 0:
                return pick.choice(SHAPES)
            case 1:
                return tuple(shape[: pick.randint(0, len(shape))])
            case 2:
                return (pick.randint(0, 3), *shape)
            case 3:
                return tuple(shape[::-1])
        if shape:
            shape[pick.randrange(len(shape))] = pick.choice((0, 1, 2, 3, 7, 33))
        return tuple(shape)

    def _strided(self, value: torch.Tensor) -> torch.Tensor:
        pick = self.random
        match pick.randrange(5):
            case 0 if value.dim() > 1:
                return value.transpose(0, -1)
            case 1 if value.dim():
                return torch.cat([value, value], -1)[..., ::2]
            case 2 if value.dim():
                return value[..., :1].expand(value.shape)
            case 3 if value.dim() == 4:
                return value.contiguous(memory_format=torch.channels_last)
        return torch.cat([value.reshape(-1)[:1], value.reshape(-1)])[1:].view(value.shape)

    def values(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor with some or all of its numbers hostile."""
        made, pick = self.tensor(shape, dtype), self.random
        if dtype.is_floating_point or dtype.is_complex:
            wrong = [pick.choice(FLOATS) for _ in range(made.numel())]
            wrong = torch.tensor(wrong, dtype=torch.float64).view(made.shape).to(dtype)
        else:
            near = pick.choice(((-3, 3), (0, 40), (-(1 << 20), 1 << 20), None))
            draw = (lambda: pick.randint(*near)) if near else (lambda: pick.choice(INTS))
            wrong = [draw() for _ in range(made.numel())]
            wrong = torch.tensor(wrong, dtype=torch.int64).view(made.shape).to(dtype)
        share = pick.choice((0.2, 1.0))
        where = torch.rand(made.shape, generator=self.torch) < share
        if dtype in (torch.float8_e4m3fn, torch.uint16, torch.uint32, torch.complex32):
            return wrong
        return torch.where(where, wrong, made)

    def any(self, kind: str) -> Value:
        """A value of a type; a number in a graph may turn out to be another one, or a tensor."""
        pick = self.random
        if kind.endswith("?"):
            return None if pick.random() < 0.3 else self.any(kind[:-1])
        if kind.endswith("[]"):
            return [self.any(kind[:-2]) for _ in range(pick.randint(0, 4))]
        if kind in ("Tensor", "int", "float", "bool", "Scalar") and pick.random() < 0.05:
            kind = pick.choice(("Tensor", "int", "float", "bool", "Scalar"))
        match kind:
            case "Tensor":
                return self.values(pick.choice(SHAPES), pick.choice(DTYPES))
            case "int":
                return pick.choice((pick.choice(INTS), pick.randint(-1, 20), pick.randint(0, 3)))
            case "float":
                return pick.choice(FLOATS)
            case "bool":
                return pick.random() < 0.5
            case "Scalar":
                return pick.choice((*INTS, *FLOATS, True, 1j))
            case "str":
                return pick.choice(WORDS)
            case "ScalarType":
                return pick.choice(DTYPES)
            case "MemoryFormat":
                return pick.choice(FORMATS)
            case "Layout":
                return torch.strided
            case "Device":
                return torch.device("cpu")
        return None


def suits(kind: str, value: Value) -> bool:
    """Whether a graph may have a value for an argument of a type."""
    match value:
        case []:
            return kind.rstrip("?").endswith("[]")
        case list():
            return all(suits(kind.rstrip("?").removesuffix("[]"), each) for each in value)
        case None:
            return kind.endswith("?")
    fields = (field for type_, field in FIELDS.items() if isinstance(value, type_))
    return accepts_field(kind, next(fields))


def describe(value: Value) -> str:
    """An argument, briefly."""
    if isinstance(value, torch.Tensor):
        few = value.reshape(-1)[:6].tolist() if value.device.type == "cpu" else ""
        return f"{value.dtype}{list(value.shape)}/{value.stride()}{few}"
    if isinstance(value, list):
        return f"[{', '.join(map(describe, value))}]"
    return repr(value)
