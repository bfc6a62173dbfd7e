"""Modules and ops of a `.pt2`, by the names that the live model would give them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from palettery.app.checkpoints.module_types import check_module_count
from palettery.app.checkpoints.ops import MULTI_HEAD_ATTENTION, OP_OF_MODULE
from palettery.app.checkpoints.pt2_graph import GraphSummary
from palettery.app.settings import Limits
from palettery.schemas.checkpoint import Module, Op

_NN = "torch.nn.modules"
_OUT_PROJECTION = f"{_NN}.linear.NonDynamicallyQuantizableLinear"
_MODULE_LIST = f"{_NN}.container.ModuleList"

Children = Mapping[str, Sequence[str]]
"""Path -> the paths of its children, in order."""


def order_modules(program: GraphSummary, names: Iterable[str], limits: Limits) -> list[str]:
    """Paths of all modules, depth first, siblings as registered; the graph lists most of them.

    Raises:
        TooLarge: far more modules than tensors and paths.
    """
    children: dict[str, list[str]] = {"": []}
    owners = [name.rpartition(".")[0] for name in names]
    listed = len(program.modules) + len(owners)
    for path in (path for paths in (program.modules, owners) for path in paths):
        missing = []
        while path not in children:
            missing.append(path)
            path = path.rpartition(".")[0]
        for new in reversed(missing):
            children[new] = []
            children[new.rpartition(".")[0]].append(new)
        check_module_count(len(children), listed, limits)
    ordered, waiting = [], [""]
    while waiting:
        path = waiting.pop()
        ordered.append(path)
        waiting += reversed(children[path])
    return ordered


def canonical_paths(
    paths: Sequence[str], types: Mapping[str, str], states: Mapping[str, str]
) -> dict[str, str]:
    """Path -> the first path under which the same module is registered.

    A file does not say which modules are one. Those are taken for one that have children and
    tensors of the same names, all of their tensors tied (one at least), and no two types.

    `states` maps the name of each tensor to the first name that it goes by.
    """
    forms, weighty = _forms(paths, states)
    found: dict[str, str] = {"": ""}
    first_of: dict[int, dict[str | None, str]] = defaultdict(dict)
    for path in paths[1:]:
        parent = path.rpartition(".")[0]
        if found[parent] != parent:
            found[path] = f"{found[parent]}.{_local(path)}".removeprefix(".")
            found[path] = found.get(found[path], found[path])
        elif path in weighty:
            found[path] = _first_alike(path, types.get(path), first_of[forms[path]])
        else:
            found[path] = path
    return found


def build_modules(
    paths: Sequence[str], canonical: Mapping[str, str], types: Mapping[str, str]
) -> tuple[Module, ...]:
    """The modules, each once, under the first of its paths.

    Containers never run, so that no graph tells of them. Two kinds are inferred: lists, by their
    numbered children, and the output projection of attention.
    """
    aliases: dict[str, list[str]] = defaultdict(list)
    known: dict[str, str] = {}
    for path in paths:
        if canonical[path] != path:
            aliases[canonical[path]].append(path)
        if path in types:
            known.setdefault(canonical[path], types[path])
    children = _children(paths)
    modules = []
    for path in paths:
        if canonical[path] != path:
            continue
        found = known.get(path)
        inferred = None if found else _infer_type(path, children, known)
        modules.append(
            Module(
                name=path,
                aliases=tuple(aliases.get(path, ())),
                type=found or inferred,
                type_source="inferred" if inferred else "graph",
            )
        )
    return tuple(modules)


def build_ops(
    program: GraphSummary, canonical: Mapping[str, str], states: Mapping[str, str]
) -> tuple[Op, ...]:
    """The ops that read tensors, named as coreai-opt names them.

    Calls are counted per module and function in the first pass through a module; later passes
    are the same ops again. `states` maps the name of each tensor to the first it goes by.
    """
    counts: Counter[tuple[str, str]] = Counter()
    passes: dict[str, str] = {}
    ops = []
    for call in program.calls:
        module = canonical.get(call.module, "")
        if passes.setdefault(module, call.instance) != call.instance:
            continue
        count = counts[module, call.function]
        counts[module, call.function] += 1
        read = {name: states[name] for name in call.reads if name in states}
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
    """Local name -> tensor; the dotted name where two tensors share the local one."""
    found: dict[str, str] = {}
    for name, first in read.items():
        local = _local(name)
        if local in found and found[local] != first:
            local = name
        found[local] = first
    return found


def _forms(paths: Sequence[str], states: Mapping[str, str]) -> tuple[dict[str, int], set[str]]:
    """A number per path, the same for the same tensors below it; and the paths with tensors."""
    children = _children(paths)
    held: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, first in states.items():
        held[name.rpartition(".")[0]].append((_local(name), first))
    numbers: dict[object, int] = {}
    forms: dict[str, int] = {}
    weighty: set[str] = set()
    for path in reversed(paths):
        inner = tuple((_local(child), forms[child]) for child in children[path])
        form = (tuple(sorted(held.get(path, ()))), inner)
        forms[path] = numbers.setdefault(form, len(numbers))
        if path in held or any(child in weighty for child in children[path]):
            weighty.add(path)
    return forms, weighty


def _first_alike(path: str, type_name: str | None, firsts: dict[str | None, str]) -> str:
    """The first path of this type among those of one form; one that never ran has any type."""
    if type_name in firsts:
        return firsts[type_name]
    if type_name is None and firsts:
        return next(iter(firsts.values()))
    firsts[type_name] = firsts.pop(None, path)
    return firsts[type_name]


def _infer_type(path: str, children: Children, known: Mapping[str, str]) -> str | None:
    parent = known.get(path.rpartition(".")[0], "")
    if _local(path) == "out_proj" and OP_OF_MODULE.get(parent) == MULTI_HEAD_ATTENTION:
        return _OUT_PROJECTION
    locals_ = [_local(child) for child in children[path]]
    if path and locals_ and locals_ == [str(number) for number in range(len(locals_))]:
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
