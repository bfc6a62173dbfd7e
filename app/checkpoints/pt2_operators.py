"""Allow list of the operators that a graph may call, with their signatures.

`operators.txt` lists torch's declarations, in groups that explain why their arguments are safe. A
test calls each with hostile arguments, and another compares each with torch's own declaration.
torch accepts None for a tensor and any number for a dtype, and crashes; so every argument is
checked against the declaration before anything runs.
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
"""Functions that call a subgraph."""
NUMERIC = frozenset(
    (
        *(f"_operator.{name}" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod")),
        *(f"_operator.{name}" for name in ("neg", "pow", "eq", "ne", "lt", "le", "gt", "ge")),
        *("_operator.and_", "_operator.or_", "torch.sym_max", "torch.sym_min", "torch.sym_not"),
        *("torch.sym_float", "torch.sym_int", "torch.sym_ite", "torch.sym_sum"),
        *("math.ceil", "math.floor", "math.trunc", "math.sqrt"),
    )
)
"""Functions that take and return numbers, such as sizes."""
NUMBER_FIELDS = frozenset(
    ("as_int", "as_float", "as_bool", "as_sym_int", "as_sym_float", "as_sym_bool")
)
PURE_OPERATORS = re.compile(
    r"torch\.ops\.aten\.(?!.*batch_norm|seed|.*fake_quant)_?[a-z0-9_]*[a-z0-9]\.default"
)
"""Operators outside the list that may be removed if their results are unused."""
_DECLARATION = re.compile(r"(?P<name>[\w.]+)\((?P<arguments>.*)\) -> .*")
_ARGUMENT = re.compile(
    r"(?P<type>\w+)(\((?P<alias>[^)]*)\))?(?P<rest>[\[\]\d?]*) (?P<name>\w+)(=.*)?"
)

_FIELDS: Mapping[str, frozenset[str]] = {
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
"""Type of an argument -> fields of `Argument` that may contain it."""
NONE_FIELDS = (frozenset(("as_none",)), frozenset(("as_none", "as_optional_tensor")))
"""Fields that may contain None, indexed by whether the argument is a tensor."""


@dataclass(frozen=True)
class Operator:
    """The declaration of an operator."""

    types: Mapping[str, str]
    """Name of an argument -> its type."""
    required: frozenset[str]
    mutated: frozenset[str]
    """Arguments that it changes in place."""

    def argument_problem(self, inputs: Sequence[NamedArgument]) -> str | None:
        """Return what is wrong with the arguments of a call, or None."""
        names = [input_.name for input_ in inputs]
        if len(set(names)) < len(names):
            return "an argument occurs twice"
        if missing := self.required.difference(names):
            return f"no argument {min(missing)!r}"
        for input_ in inputs:
            type_ = self.types.get(input_.name)
            if type_ is None:
                return f"the unknown argument {input_.name!r}"
            if not accepts_field(type_, input_.arg.field()):
                return f"{input_.arg.field()!r} for its argument {input_.name!r}, a {type_}"
        return None


def accepts_field(type_: str, field: str) -> bool:
    """Return whether a field of `Argument` may contain an argument of a type."""
    base_type = type_.removesuffix("?")
    return field in _FIELDS[base_type] or (
        base_type != type_ and field in NONE_FIELDS[base_type == "Tensor"]
    )


@cache
def operators() -> Mapping[str, Operator]:
    """Return the allowed operators, by target."""
    lines = OPERATORS_FILE.read_text("utf-8").splitlines()
    declarations = (_parse_declaration(line) for line in lines if line and not line.startswith("#"))
    return {ATEN + name: operator for name, operator in declarations}


def _parse_declaration(line: str) -> tuple[str, Operator]:
    match = _DECLARATION.fullmatch(line)
    assert match is not None, line  # noqa: S101 - the list is ours, and tested
    types, required, mutated = {}, [], []
    for text in re.split(r", (?![^\[]*\])", match["arguments"]):
        argument = _ARGUMENT.fullmatch(text)
        if argument is None:
            continue  # the * before keyword-only arguments
        name = argument["name"]
        base_type = argument["type"].replace("SymInt", "int")
        types[name] = base_type + re.sub(r"\d", "", argument["rest"])
        if "=" not in text:
            required.append(name)
        if "!" in (argument["alias"] or ""):
            mutated.append(name)
    if "batch_norm" in match["name"] or match["name"].startswith("instance_norm"):
        mutated += [name for name in ("running_mean", "running_var") if name in types]
    return match["name"], Operator(types, frozenset(required), frozenset(mutated))


def has_effects(node: Node) -> bool:
    """Return whether a node may do more than compute its results."""
    if node.target in NUMERIC:
        return False
    if node.target in HIGHER_ORDER:
        return any(has_effects(inner) for graph in node.subgraphs() for inner in graph.nodes)
    operator = operators().get(node.target)
    if operator is None:
        return PURE_OPERATORS.fullmatch(node.target) is None
    computes = any(any(output.names()) for output in node.outputs)
    return not computes or bool(operator.mutated) or "_assert" in node.target


def find_problems(graph: Graph, fixed: Set[str] = frozenset()) -> Iterator[str]:
    """Yield why a graph must not be run; no node may change a value of `fixed` in place."""
    for node in graph.nodes:
        for subgraph in node.subgraphs():
            yield from find_problems(subgraph, _fixed_in(subgraph, node, fixed))
        if (problem := _call_problem(node, fixed)) is not None:
            yield problem


def _fixed_in(subgraph: Graph, node: Node, fixed: Set[str]) -> frozenset[str]:
    """Return the inputs of a subgraph that are values of `fixed` where a node calls it.

    A node passes them as its last arguments, in order.
    """
    passed = [input_.arg for input_ in node.inputs if input_.arg.as_graph is None]
    pairs = zip(reversed(subgraph.inputs), reversed(passed), strict=False)
    return frozenset(
        name for own, arg in pairs if not fixed.isdisjoint(arg.names()) for name in own.names()
    )


def _call_problem(node: Node, fixed: Set[str]) -> str | None:
    label = f"{node.target[:100]!r} (node {node.label()[:100]!r})"
    operator = operators().get(node.target)
    if operator is not None:
        problem = operator.argument_problem(node.inputs)
        if problem is None and any(
            input_.name in operator.mutated and not fixed.isdisjoint(input_.arg.names())
            for input_ in node.inputs
        ):
            problem = "an input or a parameter to change in place"
        return problem and f"the graph calls {label} with {problem}"
    if node.target in HIGHER_ORDER:
        return None
    if node.target in NUMERIC:
        fields = {input_.arg.field() for input_ in node.inputs}
        is_numeric = fields <= NUMBER_FIELDS or (
            node.target == "torch.sym_sum" and fields <= {"as_sym_ints"}
        )
        return None if is_numeric else f"the graph calls {label} with other arguments than numbers"
    return f"the graph calls {label}, which is not on the list of safe operators"
