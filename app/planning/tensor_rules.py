"""What the config says about each tensor: the rule that wins, and the spec it asks for."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from palettery.app.checkpoints.ops import OP_TYPES
from palettery.app.planning.module_rules import ModuleTree, Rules
from palettery.app.planning.paths import keyed, pointer
from palettery.app.planning.patterns import Patterns
from palettery.schemas.checkpoint import Checkpoint, Op, StoredTensor
from palettery.schemas.config import (
    ModuleKMeansPalettizerConfig,
    OpKMeansPalettizerConfig,
    PalettizationSpec,
)

FLOAT_BYTES: Mapping[str, int] = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
"""Dtypes that can be palettized, and their sizes."""
OUT_OF_REACH = frozenset(f"torch.nn.modules.rnn.{kind}" for kind in ("RNN", "GRU", "LSTM"))
"""Modules whose parameters torch hands to the op as one list, so that no rule sees them."""
ALL = "*"
"""The key of a spec dict that stands for every tensor no other key names."""

Specs = Mapping[str, PalettizationSpec | None]
_OFF: Specs = {ALL: None}
_MODULE_STATE_RANK = -1
"""Before every module: nothing overrides module_state_spec."""


class Decision(NamedTuple):
    """The word of the config on one tensor that something consumes."""

    rank: int
    """Precedence of the module that spoke, lowest first."""
    op: Op | None
    under: str
    """Path of the module config, or of the op config in it, that was asked."""
    rule: str | None
    """The rule that decided; None when the governing module config has none for this tensor."""
    spec: PalettizationSpec | None = None
    """What it asks for; None keeps the tensor."""
    config: ModuleKMeansPalettizerConfig | None = None
    """The module config that the rule stands in."""


@dataclass(frozen=True)
class Verdicts:
    """All decisions, and which op-level keys had a say on the way."""

    tensors: dict[str, Decision] = field(default_factory=dict)
    """Tensor name -> decision; tensors that nothing consumes are absent."""
    used: set[str] = field(default_factory=set)
    """Paths of the op_type_config and op_name_config keys that an op was read under."""


def can_be_palettized(tensor: StoredTensor) -> bool:
    """Whether a tensor is floating-point with more than one value."""
    return tensor.dtype in FLOAT_BYTES and math.prod(tensor.shape) > 1


def decide(
    checkpoint: Checkpoint, tree: ModuleTree, governed: Mapping[str, Rules], patterns: Patterns
) -> Verdicts:
    """Walk the ops in order, as coreai-opt walks the calls of a forward pass.

    A tensor that several ops consume goes to the module of most weight; within one module the
    last op has the word. module_state_spec of any owner comes before all of them.

    Source: coreai-opt 0.3.0, `StateSpecResolver.resolve`.
    """
    return _Walk(checkpoint, tree, governed, patterns).run()


class _Walk:
    def __init__(
        self,
        checkpoint: Checkpoint,
        tree: ModuleTree,
        governed: Mapping[str, Rules],
        patterns: Patterns,
    ) -> None:
        self._checkpoint, self._tree, self._governed = checkpoint, tree, governed
        self._ranks = {name: rank for rank, name in enumerate(governed)}
        self._tensors = {
            name: tensor
            for tensor in checkpoint.tensors
            for name in (tensor.name, *tensor.aliases)
            if can_be_palettized(tensor)
        }
        self._open = self._modules_under_state_specs()
        self._named = self._match_op_names(patterns)
        self._verdicts = Verdicts()

    def run(self) -> Verdicts:
        for op in self._checkpoint.ops:
            module = self._tree.canonical(op.module)
            registered = op.type in OP_TYPES
            if not registered and module not in self._open:
                continue
            rules = self._governed[module]
            specs, path = self._op_specs(op, rules) if registered else ({}, rules.path)
            for name in op.states.values():
                if (tensor := self._tensors.get(name)) is not None:
                    self._visit(tensor, op, module, specs, path)
        self._reach_the_rest()
        return self._verdicts

    def _visit(self, tensor: StoredTensor, op: Op, module: str, specs: Specs, path: str) -> None:
        rank, before = self._ranks[module], self._verdicts.tensors.get(tensor.name)
        if before is not None and rank > before.rank:
            return
        if before is None and (found := self._module_state(tensor, op)) is not None:
            self._verdicts.tensors[tensor.name] = found
            return
        key = _key(specs, tensor)
        self._verdicts.tensors[tensor.name] = Decision(
            rank,
            op,
            path,
            rule=_rule(path, specs, key),
            spec=None if key is None else specs[key],
            config=self._governed[module].config,
        )

    def _module_state(self, tensor: StoredTensor, op: Op | None) -> Decision | None:
        """What the module_state_spec of the tensor's owners says, the one of most weight first."""
        if not self._open:
            return None
        owners = {self._tree.owner(name).name for name in _names(tensor)}
        for owner in sorted(owners, key=self._ranks.__getitem__):
            rules = self._governed[owner]
            if rules.config is None or not rules.own or not rules.config.module_state_spec:
                continue
            specs = rules.config.module_state_spec
            if (key := _key(specs, tensor)) is not None:
                rule = f"{rules.path}.{keyed('module_state_spec', key)}"
                return Decision(_MODULE_STATE_RANK, op, rules.path, rule, specs[key], rules.config)
        return None

    def _reach_the_rest(self) -> None:
        """module_state_spec on tensors that no known op consumes.

        A graph knows every consumer. Without one, all parameters of a module count as consumed.
        """
        for tensor in self._checkpoint.tensors:
            owner = self._tree.owner(tensor.name)
            if tensor.name in self._verdicts.tensors or tensor.name not in self._tensors:
                continue
            if owner.type_source == "graph" or owner.type in OUT_OF_REACH:
                continue
            if (found := self._module_state(tensor, None)) is not None:
                self._verdicts.tensors[tensor.name] = found

    def _op_specs(self, op: Op, rules: Rules) -> tuple[Specs, str]:
        """The spec dict that an op is read under, and the path of what holds it."""
        if rules.config is None:
            return _OFF, rules.path
        entry: ModuleKMeansPalettizerConfig | OpKMeansPalettizerConfig | None = rules.config
        path = rules.path
        named = self._named.get(rules.path, {}).get(op.name)
        if named is not None:
            entry = rules.config.op_name_config[named]
            path = f"{path}.{keyed('op_name_config', named)}"
            self._verdicts.used.add(path)
        elif op.type in rules.config.op_type_config:
            entry = rules.config.op_type_config[op.type]
            path = f"{path}.{keyed('op_type_config', op.type)}"
            self._verdicts.used.add(path)
        if entry is None:
            return _OFF, path
        if entry.op_state_spec is None:
            return _OFF, f"{path}.op_state_spec"
        return entry.op_state_spec, path

    def _match_op_names(self, patterns: Patterns) -> dict[str, dict[str, str]]:
        """Rules' path -> op name -> the last op_name_config key that matches it."""
        names: dict[str, list[str]] = defaultdict(list)
        governing: dict[str, Rules] = {}
        for op in self._checkpoint.ops:
            rules = self._governed[self._tree.canonical(op.module)]
            if rules.config is not None and rules.config.op_name_config and op.type in OP_TYPES:
                names[rules.path].append(op.name)
                governing[rules.path] = rules
        return {
            path: {
                name: pattern
                for pattern in rules.config.op_name_config
                for name in patterns.matching(
                    pattern, sorted(names[path]), rules.pointer + pointer("op_name_config", pattern)
                )
            }
            for path, rules in governing.items()
            if rules.config is not None
        }

    def _modules_under_state_specs(self) -> frozenset[str]:
        """Modules with a module_state_spec, and those that lie in one."""
        found: set[str] = set()
        for module in self._tree.modules.values():
            rules = self._governed[module.name]
            own = rules.own and rules.config is not None and rules.config.module_state_spec
            if own or (module.name and module.name.rpartition(".")[0] in found):
                found.add(module.name)
        return frozenset(found)


def _key(specs: Specs, tensor: StoredTensor) -> str | None:
    """The key that speaks for a tensor: the last that is a local name of it, else "*"."""
    names = [name.rpartition(".")[2] for name in _names(tensor)]
    exact = [key for key in specs if key in names]
    return exact[-1] if exact else (ALL if ALL in specs else None)


def _rule(path: str, specs: Specs, key: str | None) -> str | None:
    if specs is _OFF:
        return path
    return None if key is None else f"{path}.{keyed('op_state_spec', key)}"


def _names(tensor: StoredTensor) -> tuple[str, ...]:
    return (tensor.name, *tensor.aliases)
