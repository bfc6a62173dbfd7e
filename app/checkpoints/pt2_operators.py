"""The operators that a graph may call, by name and overload, and the arguments that each takes.

`operators.txt` lists them as torch declares them, in groups that say why their arguments are safe.
A test calls each with hostile arguments, and another compares each with torch's own declaration.
torch itself takes None for a tensor and any number for a dtype, and dies of it; so every argument
is checked against the declaration before anything runs.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from palettery.app.checkpoints.pt2_schema import Graph, NamedArgument, Node

OPERATORS_FILE = Path(__file__).with_name("operators.txt")
ATEN = "torch.ops.aten."
HIGHER_ORDER = frozenset(
    (
        "torch.ops.higher_order.wrap_with_set_grad_enabled",
        "torch.ops.higher_order.wrap_with_autocast",
    )
)
"""Functions that call a graph within the graph."""
NUMERIC = frozenset(
    (
        *(f"_operator.{name}" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod")),
        *(f"_operator.{name}" for name in ("neg", "pow", "eq", "ne", "lt", "le", "gt", "ge")),
        *("_operator.and_", "_operator.or_", "torch.sym_max", "torch.sym_min", "torch.sym_not"),
        *("torch.sym_float", "torch.sym_int", "torch.sym_ite", "torch.sym_sum"),
        *("math.ceil", "math.floor", "math.trunc", "math.sqrt"),
    )
)
"""Functions of numbers, such as sizes."""
NUMBER_FIELDS = frozenset(
    ("as_int", "as_float", "as_bool", "as_sym_int", "as_sym_float", "as_sym_bool")
)
PURE_OPERATORS = re.compile(
    r"torch\.ops\.aten\.(?!.*batch_norm|seed|.*fake_quant)_?[a-z0-9_]*[a-z0-9]\.default"
)
"""Operators beyond the list that can be left out where nothing uses what they compute."""
_DECLARATION = re.compile(r"(?P<name>[\w.]+)\((?P<arguments>.*)\) -> .*")
_ARGUMENT = re.compile(
    r"(?P<type>\w+)(\((?P<alias>[^)]*)\))?(?P<rest>[\[\]\d?]*) (?P<name>\w+)(=.*)?"
)

_KINDS: Mapping[str, frozenset[str]] = {
    "Tensor": NUMBER_FIELDS | {"as_tensor", "as_complex"},  # as in x + 1
    "Tensor[]": frozenset(("as_tensors",)),
    "Tensor?[]": frozenset(("as_tensors", "as_optional_tensors")),
    "int": frozenset(("as_int", "as_sym_int")),
    "int[]": frozenset(("as_int", "as_sym_int", "as_ints", "as_sym_ints")),
    "float": frozenset(("as_float", "as_int", "as_sym_float", "as_sym_int")),
    "float[]": frozenset(("as_float", "as_floats", "as_sym_floats", "as_ints", "as_sym_ints")),
    "Scalar": NUMBER_FIELDS | {"as_complex"},
    "bool": frozenset(("as_bool", "as_sym_bool")),
    "str": frozenset(("as_string",)),
    "ScalarType": frozenset(("as_scalar_type",)),
    "MemoryFormat": frozenset(("as_memory_format",)),
    "Layout": frozenset(("as_layout",)),
    "Device": frozenset(("as_device",)),
    "Generator": frozenset(()),
}
"""Type of an argument -> fields that may hold it."""
NONE_FIELDS = (frozenset(("as_none",)), frozenset(("as_none", "as_optional_tensor")))
"""Fields that may hold what may be left out: of any type, and of a tensor."""


@dataclass(frozen=True)
class Operator:
    """An operator as torch declares it."""

    types: Mapping[str, str]
    """Name of each argument -> its type."""
    required: frozenset[str]
    written: frozenset[str]
    """Arguments that it changes."""

    def problem(self, inputs: Sequence[NamedArgument]) -> str | None:
        """What is wrong with the arguments of a call, if anything is."""
        names = [given.name for given in inputs]
        if len(set(names)) < len(names):
            return "an argument occurs twice"
        if missing := self.required.difference(names):
            return f"no argument {min(missing)!r}"
        for given in inputs:
            kind = self.types.get(given.name)
            if kind is None:
                return f"an argument {given.name!r} that it does not take"
            if not accepts_field(kind, given.arg.kind()):
                return f"{given.arg.kind()!r} for its argument {given.name!r}, a {kind}"
        return None


def accepts_field(kind: str, field: str) -> bool:
    """Whether an argument of a type may be written as a field of `Argument`."""
    plain = kind.removesuffix("?")
    return field in _KINDS[plain] or (plain != kind and field in NONE_FIELDS[plain == "Tensor"])


@cache
def operators() -> Mapping[str, Operator]:
    """Target -> the operator, of all that are listed."""
    lines = OPERATORS_FILE.read_text("utf-8").splitlines()
    found = (_parse_declaration(line) for line in lines if line and not line.startswith("#"))
    return {ATEN + name: operator for name, operator in found}


def _parse_declaration(line: str) -> tuple[str, Operator]:
    declared = _DECLARATION.fullmatch(line)
    assert declared is not None, line  # noqa: S101 - the list is ours, and tested
    types, required, written = {}, [], []
    for text in re.split(r", (?![^\[]*\])", declared["arguments"]):
        argument = _ARGUMENT.fullmatch(text)
        if argument is None:
            continue  # the star before arguments by name
        name = argument["name"]
        plain = argument["type"].replace("SymInt", "int")
        types[name] = plain + re.sub(r"\d", "", argument["rest"])
        if "=" not in text:
            required.append(name)
        if "!" in (argument["alias"] or ""):
            written.append(name)
    if "batch_norm" in declared["name"] or declared["name"].startswith("instance_norm"):
        written += [name for name in ("running_mean", "running_var") if name in types]
    return declared["name"], Operator(types, frozenset(required), frozenset(written))


def has_effects(node: Node) -> bool:
    """Whether a node does more than to compute its values, or may do so for all that is known."""
    if node.target in NUMERIC:
        return False
    if node.target in HIGHER_ORDER:
        return any(has_effects(inner) for graph in node.graphs() for inner in graph.nodes)
    operator = operators().get(node.target)
    if operator is None:
        return PURE_OPERATORS.fullmatch(node.target) is None
    computes = any(any(output.names()) for output in node.outputs)
    return not computes or bool(operator.written) or "_assert" in node.target


def problems(graph: Graph, fixed: Set[str] = frozenset()) -> Iterator[str]:
    """What keeps a graph from being run; no node may change the values that are fixed."""
    for node in graph.nodes:
        for inner in node.graphs():
            yield from problems(inner)
        if (problem := _problem(node, fixed)) is not None:
            yield problem


def _problem(node: Node, fixed: Set[str]) -> str | None:
    label = f"{node.target[:100]!r} (node {node.label()[:100]!r})"
    operator = operators().get(node.target)
    if operator is not None:
        wrong = operator.problem(node.inputs)
        if wrong is None and any(
            given.name in operator.written and not fixed.isdisjoint(given.arg.names())
            for given in node.inputs
        ):
            wrong = "an input or a parameter to change in place"
        return wrong and f"the graph calls {label} with {wrong}"
    if node.target in HIGHER_ORDER:
        return None
    if node.target in NUMERIC:
        kinds = {given.arg.kind() for given in node.inputs}
        is_numeric = kinds <= NUMBER_FIELDS or (
            node.target == "torch.sym_sum" and kinds <= {"as_sym_ints"}
        )
        return None if is_numeric else f"the graph calls {label} with more than numbers"
    return f"the graph calls {label}, which is not among the operators that are known to be safe"
