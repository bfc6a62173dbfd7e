"""Which operators the exported programs of known architectures call, and with what arguments.

`python -m tests.exported_operators` writes `operator_calls.json` anew, for the fuzz test.
"""

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram

from palettery.app.checkpoints.pt2_operators import operators
from tests.architectures import ARCHITECTURES, Built

CALLS = Path(__file__).parent / "operator_calls.json"
MAX_CALLS, MAX_ELEMENTS = 3, 5_000
_TENSOR = {"self": {"tensor": [2, 3], "dtype": "float32"}}
RARE = {
    "torch.ops.aten.sym_numel.default": _TENSOR,
    "torch.ops.aten.sym_stride.int": _TENSOR | {"dim": 0},
    "torch.ops.aten.sym_constrain_range.default": {"size": 3, "min": 0, "max": 4},
    "torch.ops.aten.sym_constrain_range_for_size.default": {"size": 3, "min": 0, "max": 4},
}
"""Calls that only models of open sizes make."""


def programs(build: Callable[[], Built], *, training: bool) -> Iterator[ExportedProgram]:
    """A model as torch exports it, and as its two usual decompositions leave it."""
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore"):
        model, args, kwargs = build()
        program = torch.export.export(model.train(training), args, kwargs)
        yield program
        yield program.run_decompositions({})
        yield program.run_decompositions()


def calls(program: ExportedProgram) -> Iterator[tuple[str, dict[str, Any]]]:
    """Target and arguments by name of every call of an operator of aten, in JSON."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            if node.op == "call_function" and isinstance(node.target, OpOverload):
                names = [argument.name for argument in node.target._schema.arguments]
                given = dict(zip(names, node.args, strict=False)) | node.kwargs
                given.pop("device", None)
                described = {name: _described(value) for name, value in given.items()}
                yield f"torch.ops.{node.target}", described


def _described(value: Any) -> Any:
    if isinstance(value, torch.fx.Node):
        value = value.meta.get("val")
    match value:
        case torch.Tensor():
            shape = [length if isinstance(length, int) else 2 for length in value.shape]
            return {"tensor": shape, "dtype": str(value.dtype).removeprefix("torch.")}
        case torch.SymInt():
            return 2
        case torch.SymBool():
            return True
        case torch.SymFloat():
            return 2.0
        case torch.dtype():
            return {"dtype": str(value).removeprefix("torch.")}
        case torch.memory_format():
            return {"memory_format": str(value).removeprefix("torch.")}
        case torch.layout():
            return {"layout": str(value).removeprefix("torch.")}
        case complex():
            return {"complex": [value.real, value.imag]}
        case list() | tuple():
            return [_described(each) for each in value]
        case float() if value in (float("inf"), float("-inf")) or value != value:
            return {"float": str(value)}
    return value


def small(argument: Any) -> bool:
    """Whether the tensors of a call are quickly made."""
    if isinstance(argument, list):
        return all(map(small, argument))
    length = 1
    for each in argument.get("tensor", ()) if isinstance(argument, dict) else ():
        length *= each
    return length <= MAX_ELEMENTS


def main() -> None:
    """Write the calls of all architectures."""
    results: dict[str, list[dict[str, Any]]] = {target: [given] for target, given in RARE.items()}
    for build in ARCHITECTURES.values():
        for training in (False, True):
            with contextlib.suppress(ValueError, RuntimeError):  # some do not train on one example
                for program in programs(build, training=training):
                    for target, given in calls(program):
                        there = results.setdefault(target, [])
                        if given not in there and small([*given.values()]):
                            there.append(given)
    lines = [
        f"{json.dumps(target)}: {json.dumps(spread(results[target]))}"
        for target in sorted(results)
        if target in operators()
    ]
    CALLS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def spread(there: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few calls, as different as they come."""
    kinds: dict[str, dict[str, Any]] = {}
    for given in sorted(there, key=lambda given: len(json.dumps(given))):
        kinds.setdefault(str({name: _kind(value) for name, value in given.items()}), given)
    return [*kinds.values()][:MAX_CALLS]


def _kind(value: Any) -> object:
    if isinstance(value, dict) and "tensor" in value:
        return len(value["tensor"])
    return type(value)


if __name__ == "__main__":
    main()
