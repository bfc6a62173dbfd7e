"""Modules and ops of a `.pt2`, with the names that they have in the live model."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from palettery.app.checkpoints.module_types import check_module_count
from palettery.app.checkpoints.op_types import MULTI_HEAD_ATTENTION, OP_OF_MODULE
from palettery.app.checkpoints.pt2_graph import GraphSummary
from palettery.app.settings import Limits
from palettery.schemas.checkpoint import Module, Op

_NN = "torch.nn.modules"
_OUT_PROJECTION = f"{_NN}.linear.NonDynamicallyQuantizableLinear"
_MODULE_LIST = f"{_NN}.container.ModuleList"

Children = Mapping[str, Sequence[str]]
"""Path -> the paths of its children, in order."""


def order_modules(graph: GraphSummary, names: Iterable[str], limits: Limits) -> list[str]:
    """Return the paths of all modules, depth first, siblings in the order of registration.

    The graph lists most of them; the others follow from the names of tensors.

    Raises:
        TooLarge: there are far more modules than tensors and paths.
    """
    children: dict[str, list[str]] = {"": []}
    owners = [name.rpartition(".")[0] for name in names]
    num_names = len(graph.modules) + len(owners)
    for path in (path for paths in (graph.modules, owners) for path in paths):
        missing = []
        while path not in children:
            missing.append(path)
            path = path.rpartition(".")[0]
        for new in reversed(missing):
            children[new] = []
            children[new.rpartition(".")[0]].append(new)
        check_module_count(len(children), num_names, limits)
    ordered, stack = [], [""]
    while stack:
        path = stack.pop()
        ordered.append(path)
        stack += reversed(children[path])
    return ordered


def canonical_paths(
    paths: Sequence[str], types: Mapping[str, str], canonical_names: Mapping[str, str]
) -> dict[str, str]:
    """Map each path to the first path of the same module.

    A file does not say which modules are shared. Two are considered the same if they have children
    and tensors of the same names, at least one tensor, all tensors tied, and no different types.

    `canonical_names` maps each name of a tensor, aliases included, to its canonical name.
    """
    structures, nonempty = _structures(paths, canonical_names)
    canonical: dict[str, str] = {"": ""}
    first_paths: dict[int, dict[str | None, str]] = defaultdict(dict)
    for path in paths[1:]:
        parent = path.rpartition(".")[0]
        if canonical[parent] != parent:
            canonical[path] = f"{canonical[parent]}.{_local(path)}".removeprefix(".")
            canonical[path] = canonical.get(canonical[path], canonical[path])
        elif path in nonempty:
            canonical[path] = _first_path(path, types.get(path), first_paths[structures[path]])
        else:
            canonical[path] = path
    return canonical


def build_modules(
    paths: Sequence[str], canonical: Mapping[str, str], types: Mapping[str, str]
) -> tuple[Module, ...]:
    """Return each module once, under the first of its paths.

    Containers never run, so a graph has no types for them. Two types are inferred: that of lists,
    by their numbered children, and that of the output projection of attention.
    """
    aliases: dict[str, list[str]] = defaultdict(list)
    graph_types: dict[str, str] = {}
    for path in paths:
        if canonical[path] != path:
            aliases[canonical[path]].append(path)
        if path in types:
            graph_types.setdefault(canonical[path], types[path])
    children = _children(paths)
    modules = []
    for path in paths:
        if canonical[path] != path:
            continue
        graph_type = graph_types.get(path)
        inferred = None if graph_type else _infer_type(path, children, graph_types)
        modules.append(
            Module(
                name=path,
                aliases=tuple(aliases.get(path, ())),
                type=graph_type or inferred,
                type_source="inferred" if inferred else "graph",
            )
        )
    return tuple(modules)


def build_ops(
    graph: GraphSummary, canonical: Mapping[str, str], canonical_names: Mapping[str, str]
) -> tuple[Op, ...]:
    """Return the ops that read tensors, with the names of coreai-opt.

    Calls are counted per module and function in the first run of a module; later runs repeat the
    same ops. `canonical_names` is as in `canonical_paths`.
    """
    counts: Counter[tuple[str, str]] = Counter()
    first_instances: dict[str, str] = {}
    ops = []
    for call in graph.calls:
        module = canonical.get(call.module, "")
        if first_instances.setdefault(module, call.instance) != call.instance:
            continue
        count = counts[module, call.function]
        counts[module, call.function] += 1
        read = {name: canonical_names[name] for name in call.reads if name in canonical_names}
        if not read:
            continue
        dotted = f"{module}.{call.function}".removeprefix(".")
        ops.append(
            Op(
                name=f"{dotted}_{count}" if count else dotted,
                type=call.function,
                module=module,
                states=_by_local_name(read),
            )
        )
    return tuple(ops)


def _by_local_name(read: Mapping[str, str]) -> dict[str, str]:
    """Map local names to tensors; where two share one, the second has its full name instead."""
    tensors: dict[str, str] = {}
    for name, first in read.items():
        local = _local(name)
        if local in tensors and tensors[local] != first:
            local = name
        tensors[local] = first
    return tensors


def _structures(
    paths: Sequence[str], canonical_names: Mapping[str, str]
) -> tuple[dict[str, int], set[str]]:
    """Return a number for each path, equal where the same tensors are below, and nonempty paths."""
    children = _children(paths)
    tensors: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, first in canonical_names.items():
        tensors[name.rpartition(".")[0]].append((_local(name), first))
    numbers: dict[object, int] = {}
    structures: dict[str, int] = {}
    nonempty: set[str] = set()
    for path in reversed(paths):
        inner = tuple((_local(child), structures[child]) for child in children[path])
        structure = (tuple(sorted(tensors.get(path, ()))), inner)
        structures[path] = numbers.setdefault(structure, len(numbers))
        if path in tensors or any(child in nonempty for child in children[path]):
            nonempty.add(path)
    return structures, nonempty


def _first_path(path: str, type_name: str | None, firsts: dict[str | None, str]) -> str:
    """Return the first path of this structure and type, and record it in `firsts`.

    A module that never ran has no type (None), and matches any.
    """
    if type_name in firsts:
        return firsts[type_name]
    if type_name is None and firsts:
        return next(iter(firsts.values()))
    firsts[type_name] = firsts.pop(None, path)
    return firsts[type_name]


def _infer_type(path: str, children: Children, types: Mapping[str, str]) -> str | None:
    parent = types.get(path.rpartition(".")[0], "")
    if _local(path) == "out_proj" and OP_OF_MODULE.get(parent) == MULTI_HEAD_ATTENTION:
        return _OUT_PROJECTION
    names = [_local(child) for child in children[path]]
    if path and names and names == [str(number) for number in range(len(names))]:
        return _MODULE_LIST
    return None


def _children(paths: Sequence[str]) -> Children:
    children: dict[str, list[str]] = {path: [] for path in paths}
    for path in paths:
        if path:
            children[path.rpartition(".")[0]].append(path)
    return children


def _local(path: str) -> str:
    return path.rpartition(".")[2]
