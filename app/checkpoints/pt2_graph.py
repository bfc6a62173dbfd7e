"""Summary of the graph of a `.pt2`: module types, and the functions that read parameters.

Source: torch 2.13, `torch/_export/serde/schema.py` and `serialize.py` (`serialize_metadata`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from palettery.app.checkpoints import pt2_json
from palettery.app.checkpoints.op_types import MULTI_HEAD_ATTENTION, OP_OF_MODULE
from palettery.app.checkpoints.pt2_json import EXPORT_AGAIN
from palettery.app.checkpoints.quoting import quote_text
from palettery.app.checkpoints.safetensors import check_name
from palettery.app.errors import InvalidModel, UnsupportedFormat

SCHEMA_MAJOR = 8
"""Supported major version of the graph schema; torch 2.9 to 2.13 write it."""

MAX_DEPTH = 32
"""Maximum nesting of subgraphs."""

_RUN_SUFFIX = re.compile(r"@\d+$")
"""End of a path in the stack of modules, from the second run of the same module on."""
_VARIADIC_FUNCTIONS = frozenset(
    ("einsum", "block_diag", "cartesian_prod", "chain_matmul", "meshgrid")
)
"""Functions that take tensors one by one, although the graph has them as one list."""
_LIST_FUNCTIONS = frozenset(("lstm", "gru", "rnn_tanh", "rnn_relu"))
"""Functions that take parameters as one list, although decomposed graphs have them one by one."""


@dataclass
class FunctionCall:
    """One call of a torch function."""

    module: str
    """Path of the calling module."""
    instance: str
    """Identity of one execution of the module, which may run several times."""
    function: str
    """Name of the function, such as `linear`."""
    reads: dict[str, None] = field(default_factory=dict)
    """Names of its parameters and buffers, in order."""


@dataclass(frozen=True)
class GraphSummary:
    """The modules, states and function calls of a graph."""

    modules: Sequence[str]
    """Paths of all modules as `named_modules(remove_duplicate=False)` lists them; may be empty."""
    types: Mapping[str, str]
    """Path -> fully qualified type, of the modules that ran."""
    states: Sequence[str]
    """Names of parameters and buffers, in order."""
    calls: Sequence[FunctionCall]


def read_graph(document: Mapping[str, object], what: str) -> GraphSummary:
    """Return the summary of the graph in a parsed models/*.json.

    Raises:
        InvalidModel: not as the schema requires.
        UnsupportedFormat: another schema version, or objects that only code can read.
    """
    _check_version(document, what)
    module = pt2_json.field(document, "graph_module", dict, what)
    names = _read_signature(pt2_json.field(module, "signature", dict, what), what)
    modules = dict.fromkeys(
        check_name(path, f"{what}, module_call_graph") if path else ""
        for path in (
            pt2_json.field(entry, "fqn", str, f"{what}, module_call_graph")
            for entry in pt2_json.field(module, "module_call_graph", list, what)
        )
    )
    walker = _GraphWalker(modules, what)
    walker.walk(pt2_json.field(module, "graph", dict, what), names)
    return GraphSummary(tuple(modules), walker.types, tuple(names.values()), walker.calls())


def _check_version(document: Mapping[str, object], what: str) -> None:
    version = pt2_json.field(document, "schema_version", dict, what)
    major = pt2_json.field(version, "major", int, f"{what}, schema_version")
    if major != SCHEMA_MAJOR:
        written_by = quote_text(str(document.get("torch_version", "unknown")))
        raise UnsupportedFormat(
            f"{what} has schema version {quote_text(str(major))}, written by torch {written_by}; "
            f"only version {SCHEMA_MAJOR} is supported: {EXPORT_AGAIN} of torch 2.13"
        )


def _read_signature(signature: Mapping[str, object], what: str) -> dict[str, str]:
    """Map the inputs of the graph to the names of their parameters and buffers."""
    what = f"{what}, signature"
    names: dict[str, str] = {}
    for spec in pt2_json.field(signature, "input_specs", list, what):
        if isinstance(spec, dict) and "custom_obj" in spec:
            raise UnsupportedFormat(
                f"{what}: the model takes a custom object, which only its own code can read; "
                "export the model without it"
            )
        for kind in ("parameter", "buffer"):
            if isinstance(spec, dict) and kind in spec:
                state = pt2_json.field(spec, kind, dict, what)
                arg = pt2_json.field(state, "arg", dict, what)
                name = pt2_json.field(state, f"{kind}_name", str, what)
                names[pt2_json.field(arg, "name", str, what)] = name
    return names


class _GraphWalker:
    """Visitor of the nodes of a graph and of its subgraphs, in order."""

    def __init__(self, modules: Mapping[str, None], what: str) -> None:
        self._modules, self._what = modules, what
        self.types: dict[str, str] = {}
        self._by_instance: dict[tuple[str, str], FunctionCall] = {}
        self._overloads: list[tuple[str, str, FunctionCall]] = []
        """Operator, type of the module and call, of each node without a function."""

    def walk(self, graph: Mapping[str, object], names: Mapping[str, str], depth: int = 0) -> None:
        """Record all calls; `names` maps values to parameters and buffers."""
        for number, node in enumerate(pt2_json.field(graph, "nodes", list, self._what)):
            what = f"{self._what}, node {number}"
            args = _arguments(node, what)
            subgraphs = [index for index, (kind, _) in enumerate(args) if kind == "as_graph"]
            if not subgraphs:
                self._visit(node, args, names, what)
                continue
            if depth == MAX_DEPTH:
                raise InvalidModel(
                    f"{what}: subgraphs are nested over {MAX_DEPTH} deep; {EXPORT_AGAIN}"
                )
            rest = args[subgraphs[-1] + 1 :]
            operands = [name for kind, value in rest for name in _operand_names(kind, value)]
            for index in subgraphs:
                subgraph = pt2_json.field(args[index][1], "graph", dict, what)
                self.walk(subgraph, _bind_operands(subgraph, operands, names, what), depth + 1)

    def calls(self) -> list[FunctionCall]:
        """Return the calls, in the order of their first nodes.

        A graph that was traced from a graph has overloads instead of functions: then each node is
        a call, except that all nodes of an attention module are calls of its one function.
        """
        if any(call.function for call in self._by_instance.values()) or not self._overloads:
            return [call for call in self._by_instance.values() if call.function]
        calls: dict[tuple[str, str], FunctionCall] = {}
        for number, (target, type_name, call) in enumerate(self._overloads):
            is_attention = OP_OF_MODULE.get(type_name) == MULTI_HEAD_ATTENTION
            call.function = MULTI_HEAD_ATTENTION if is_attention else target
            key = (call.instance, "" if is_attention else str(number))
            calls.setdefault(key, call).reads.update(call.reads)
        return list(calls.values())

    def _visit(
        self,
        node: object,
        args: Sequence[tuple[str, object]],
        names: Mapping[str, str],
        what: str,
    ) -> None:
        metadata: Mapping[str, object] = pt2_json.field(node, "metadata", dict, what)
        instance, module = self._innermost_module(metadata.get("nn_module_stack"), what)
        torch_fn = metadata.get("torch_fn")
        if torch_fn is not None and not isinstance(torch_fn, str):
            raise InvalidModel(f"{what}: 'torch_fn' must be a string; {EXPORT_AGAIN}")
        # Such as "linear_1;builtin_function_or_method.linear" or "add_2;OpOverload.add.Tensor".
        kind, _, function = (torch_fn or "").partition(";")[2].partition(".")
        reads = dict.fromkeys(
            names[value] for value in _tensor_names(args, function) if value in names
        )
        if module not in self._modules and reads:
            # A slice of a container creates new modules; the owner of the parameters is meant.
            module = next(iter(reads)).rpartition(".")[0]
        if not function or kind == "OpOverload":
            target = pt2_json.field(node, "target", str, what).removeprefix("torch.ops.aten.")
            call = FunctionCall(module, instance, "", reads)
            self._overloads.append((target.partition(".")[0], self.types.get(module, ""), call))
        else:
            call = FunctionCall(module, instance, function)
            self._by_instance.setdefault((instance, torch_fn or ""), call).reads.update(reads)

    def _innermost_module(self, stack: object, what: str) -> tuple[str, str]:
        """Return instance and path of the module that a node belongs to; record all types above."""
        if stack is not None and not isinstance(stack, str):
            raise InvalidModel(f"{what}: 'nn_module_stack' must be a string; {EXPORT_AGAIN}")
        instance, module = "", ""
        for entry in stack.split(";") if stack else ():
            parts = _split_at_commas(entry)
            if len(parts) != 3:
                raise InvalidModel(
                    f"{what}: {quote_text(entry)} in 'nn_module_stack' is not a key, a path and a "
                    f"type; {EXPORT_AGAIN}"
                )
            key, path, type_name = parts
            module = path if path in self._modules else _RUN_SUFFIX.sub("", path)
            instance = f"{key},{path}"
            self.types.setdefault(module, type_name)
        return instance, module


def _arguments(node: object, what: str) -> list[tuple[str, object]]:
    """Return a node's arguments as (kind, value)."""
    arguments: list[tuple[str, object]] = []
    for entry in pt2_json.field(node, "inputs", list, what):
        arg = pt2_json.field(entry, "arg", dict, what)
        if len(arg) != 1:
            raise InvalidModel(f"{what}: an argument must be of one kind; {EXPORT_AGAIN}")
        arguments += arg.items()
        if "as_custom_obj" in arg:
            raise UnsupportedFormat(
                f"{what} takes a custom object, which only its own code can read; "
                "export the model without it"
            )
    return arguments


def _tensor_names(args: Sequence[tuple[str, object]], function: str) -> Iterator[str]:
    """Yield the names of the tensors that are direct arguments of a function."""
    if function in _LIST_FUNCTIONS:
        return
    for kind, value in args:
        if kind == "as_tensor" or (kind == "as_tensors" and function in _VARIADIC_FUNCTIONS):
            yield from _names(value)
        elif kind == "as_optional_tensor" and isinstance(value, dict):
            yield from _names(value.get("as_tensor"))


def _bind_operands(
    graph: Mapping[str, object],
    operands: Sequence[str],
    names: Mapping[str, str],
    what: str,
) -> Mapping[str, str]:
    """Map the inputs of a subgraph to parameters; `operands` are the caller's arguments."""
    inputs = [
        name
        for entry in pt2_json.field(graph, "inputs", list, what)
        for kind, value in (entry.items() if isinstance(entry, dict) else ())
        for name in _operand_names(kind, value)
    ]
    pairs = zip(inputs, operands, strict=False)  # unvalidated: the numbers may differ
    return {inside: names[outside] for inside, outside in pairs if outside in names}


def _operand_names(kind: str, value: object) -> Iterator[str]:
    """Yield the names of an argument's tensors; an empty name if there are none."""
    names = list(_names(value)) if kind in ("as_tensor", "as_tensors") else []
    yield from names or [""]


def _names(value: object) -> Iterator[str]:
    for item in value if isinstance(value, list) else (value,):
        name = item.get("name") if isinstance(item, dict) else None
        if isinstance(name, str):
            yield name


def _split_at_commas(entry: str) -> list[str]:
    """Return the parts of a text between commas, except for commas in brackets."""
    if entry.count(",") == 2:
        return entry.split(",")
    parts, start, depth = [], 0, 0
    for at, character in enumerate(entry):
        depth += (character in "[(") - (character in ")]")
        if character == "," and not depth:
            parts.append(entry[start:at])
            start = at + 1
    return [*parts, entry[start:]]
