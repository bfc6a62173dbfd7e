"""The graph of a `.pt2`: which function of which module read which parameter, and module types.

Source: torch 2.13, `torch/_export/serde/schema.py` and `serialize.py` (`serialize_metadata`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from palettery.app.checkpoints import pt2_json
from palettery.app.checkpoints.json_scanner import quote_text
from palettery.app.checkpoints.ops import MULTI_HEAD_ATTENTION, OP_OF_MODULE
from palettery.app.checkpoints.pt2_json import EXPORT_AGAIN
from palettery.app.checkpoints.safetensors import check_name
from palettery.app.errors import InvalidModel, UnsupportedFormat

SCHEMA_MAJOR = 8
"""Major version of the graph schema that this reads; torch 2.9 to 2.13 write it."""

DEPTH = 32
"""Most graphs within each other."""

_REPEAT = re.compile(r"@\d+$")
_VARIADIC = frozenset(("einsum", "block_diag", "cartesian_prod", "chain_matmul", "meshgrid"))
"""Functions that take their tensors one by one, though the graph holds them as one list."""
_LISTS = frozenset(("lstm", "gru", "rnn_tanh", "rnn_relu"))
"""Functions that take parameters as one list, though decomposed graphs hold them one by one."""


@dataclass
class FunctionCall:
    """One call of a torch function."""

    module: str
    """Path of the module that made it."""
    instance: str
    """Which pass through the module made it."""
    function: str
    """Its name, such as `linear`."""
    reads: dict[str, None] = field(default_factory=dict)
    """Names of the parameters and buffers it was given, in order."""


@dataclass(frozen=True)
class GraphSummary:
    """What a graph tells of a model."""

    modules: Sequence[str]
    """Paths of all modules as `named_modules(remove_duplicate=False)` lists them, if it says."""
    types: Mapping[str, str]
    """Path -> fully qualified type, of the modules that ran."""
    states: Sequence[str]
    """Names of parameters and buffers, in order."""
    calls: Sequence[FunctionCall]


def read_graph(said: Mapping[str, object], what: str) -> GraphSummary:
    """The program in a parsed models/*.json.

    Raises:
        InvalidModel: not what the schema asks for.
        UnsupportedFormat: of another schema version, or with objects that only code can read.
    """
    _check_version(said, what)
    module = pt2_json.field(said, "graph_module", dict, what)
    names = _read_signature(pt2_json.field(module, "signature", dict, what), what)
    modules = dict.fromkeys(
        check_name(path, f"{what}, module_call_graph") if path else ""
        for path in (
            pt2_json.field(entry, "fqn", str, f"{what}, module_call_graph")
            for entry in pt2_json.field(module, "module_call_graph", list, what)
        )
    )
    walk = _GraphWalker(modules, what)
    walk.graph(pt2_json.field(module, "graph", dict, what), names)
    return GraphSummary(tuple(modules), walk.types, tuple(names.values()), walk.finished())


def _check_version(said: Mapping[str, object], what: str) -> None:
    version = pt2_json.field(said, "schema_version", dict, what)
    major = pt2_json.field(version, "major", int, f"{what}, schema_version")
    if major != SCHEMA_MAJOR:
        written_by = quote_text(str(said.get("torch_version", "unknown")))
        raise UnsupportedFormat(
            f"{what} has schema version {quote_text(str(major))}, written by torch {written_by}; "
            f"version {SCHEMA_MAJOR} is read: {EXPORT_AGAIN} of torch 2.13"
        )


def _read_signature(signature: Mapping[str, object], what: str) -> dict[str, str]:
    """Graph input -> name of the parameter or buffer it stands for."""
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
                held = pt2_json.field(spec, kind, dict, what)
                arg = pt2_json.field(held, "arg", dict, what)
                name = pt2_json.field(held, f"{kind}_name", str, what)
                names[pt2_json.field(arg, "name", str, what)] = name
    return names


class _GraphWalker:
    """Goes through the nodes of a graph and of the graphs within it, in order."""

    def __init__(self, modules: Mapping[str, None], what: str) -> None:
        self._modules, self._what = modules, what
        self.types: dict[str, str] = {}
        self._calls: dict[tuple[str, str], FunctionCall] = {}
        self._overloads: list[tuple[str, str, FunctionCall]] = []

    def graph(self, graph: Mapping[str, object], names: Mapping[str, str], depth: int = 0) -> None:
        """Note all calls; `names` are those of the values that are parameters or buffers."""
        for number, node in enumerate(pt2_json.field(graph, "nodes", list, self._what)):
            what = f"{self._what}, node {number}"
            args = _arguments(node, what)
            inner = [number for number, (kind, _) in enumerate(args) if kind == "as_graph"]
            if not inner:
                self._node(node, args, names, what)
                continue
            if depth == DEPTH:
                raise InvalidModel(f"{what}: graphs lie over {DEPTH} deep; {EXPORT_AGAIN}")
            behind = args[inner[-1] + 1 :]
            operands = [name for kind, value in behind for name in _operands(kind, value)]
            for at in inner:
                nested = pt2_json.field(args[at][1], "graph", dict, what)
                self.graph(nested, _bind_operands(nested, operands, names, what), depth + 1)

    def finished(self) -> list[FunctionCall]:
        """The calls, in order of their first node.

        A graph that was traced from a graph knows overloads only, no functions: there, each node
        is a call, and what attention modules ran was their one function.
        """
        if any(held.function for held in self._calls.values()) or not self._overloads:
            return [held for held in self._calls.values() if held.function]
        calls: dict[tuple[str, str], FunctionCall] = {}
        for number, (target, type_name, held) in enumerate(self._overloads):
            attends = OP_OF_MODULE.get(type_name) == MULTI_HEAD_ATTENTION
            held.function = MULTI_HEAD_ATTENTION if attends else target
            key = (held.instance, "" if attends else str(number))
            calls.setdefault(key, held).reads.update(held.reads)
        return list(calls.values())

    def _node(
        self,
        node: object,
        args: Sequence[tuple[str, object]],
        names: Mapping[str, str],
        what: str,
    ) -> None:
        metadata: Mapping[str, object] = pt2_json.field(node, "metadata", dict, what)
        instance, module = self._innermost(metadata.get("nn_module_stack"), what)
        told = metadata.get("torch_fn")
        if told is not None and not isinstance(told, str):
            raise InvalidModel(f"{what}: 'torch_fn' must be a text; {EXPORT_AGAIN}")
        kind, _, function = (told or "").partition(";")[2].partition(".")
        reads = dict.fromkeys(names[value] for value in _tensors(args, function) if value in names)
        if module not in self._modules and reads:
            # A slice of a container makes modules of its own; their owner is what counts.
            module = next(iter(reads)).rpartition(".")[0]
        if not function or kind == "OpOverload":
            target = pt2_json.field(node, "target", str, what).removeprefix("torch.ops.aten.")
            call = FunctionCall(module, instance, "", reads)
            self._overloads.append((target.partition(".")[0], self.types.get(module, ""), call))
        else:
            call = FunctionCall(module, instance, function)
            self._calls.setdefault((instance, told or ""), call).reads.update(reads)

    def _innermost(self, stack: object, what: str) -> tuple[str, str]:
        """The pass and the path of the module that a node ran in; notes the types on the way."""
        if stack is not None and not isinstance(stack, str):
            raise InvalidModel(f"{what}: 'nn_module_stack' must be a text; {EXPORT_AGAIN}")
        instance, module = "", ""
        for entry in stack.split(";") if stack else ():
            parts = _split(entry)
            if len(parts) != 3:
                raise InvalidModel(
                    f"{what}: {quote_text(entry)} in 'nn_module_stack' is not a key, a path and a "
                    f"type; {EXPORT_AGAIN}"
                )
            key, path, type_name = parts
            module = path if path in self._modules else _REPEAT.sub("", path)
            instance = f"{key},{path}"
            self.types.setdefault(module, type_name)
        return instance, module


def _arguments(node: object, what: str) -> list[tuple[str, object]]:
    """A node's arguments as (kind, value); those of one list or dict each on their own."""
    found: list[tuple[str, object]] = []
    for said in pt2_json.field(node, "inputs", list, what):
        arg = pt2_json.field(said, "arg", dict, what)
        if len(arg) != 1:
            raise InvalidModel(f"{what}: an argument must be of one kind; {EXPORT_AGAIN}")
        found += arg.items()
        if "as_custom_obj" in arg:
            raise UnsupportedFormat(
                f"{what} takes a custom object, which only its own code can read; "
                "export the model without it"
            )
    return found


def _tensors(args: Sequence[tuple[str, object]], function: str) -> Iterator[str]:
    """Names of the tensors that a node was given directly."""
    if function in _LISTS:
        return
    for kind, value in args:
        if kind == "as_tensor" or (kind == "as_tensors" and function in _VARIADIC):
            yield from _names(value)
        elif kind == "as_optional_tensor" and isinstance(value, dict):
            yield from _names(value.get("as_tensor"))


def _bind_operands(
    graph: Mapping[str, object],
    operands: Sequence[str],
    names: Mapping[str, str],
    what: str,
) -> Mapping[str, str]:
    """Value of an inner graph -> parameter; its inputs are the operands behind the graphs."""
    inputs = [
        name
        for said in pt2_json.field(graph, "inputs", list, what)
        for kind, value in (said.items() if isinstance(said, dict) else ())
        for name in _operands(kind, value)
    ]
    pairs = zip(inputs, operands, strict=False)
    return {inside: names[outside] for inside, outside in pairs if outside in names}


def _operands(kind: str, value: object) -> Iterator[str]:
    """Names of what an argument holds; one empty name for anything that is no tensor."""
    found = list(_names(value)) if kind in ("as_tensor", "as_tensors") else []
    yield from found or [""]


def _names(value: object) -> Iterator[str]:
    for held in value if isinstance(value, list) else (value,):
        name = held.get("name") if isinstance(held, dict) else None
        if isinstance(name, str):
            yield name


def _split(entry: str) -> list[str]:
    """Text cut at its commas, those in brackets left alone."""
    if entry.count(",") == 2:
        return entry.split(",")
    parts, start, depth = [], 0, 0
    for at, character in enumerate(entry):
        depth += (character in "[(") - (character in ")]")
        if character == "," and not depth:
            parts.append(entry[start:at])
            start = at + 1
    return [*parts, entry[start:]]
