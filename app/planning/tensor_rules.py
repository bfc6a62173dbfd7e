"""The rule that applies to each tensor, and its spec."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from palettery.app.checkpoints.op_types import OP_TYPES
from palettery.app.planning.module_rules import ModuleRule, ModuleTree
from palettery.app.planning.paths import format_path, json_pointer
from palettery.app.planning.patterns import Patterns
from palettery.schemas.checkpoint import Checkpoint, Op, StoredTensor
from palettery.schemas.config import (
    ModuleKMeansPalettizerConfig,
    OpKMeansPalettizerConfig,
    PalettizationSpec,
)

FLOAT_BYTES: Mapping[str, int] = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
"""Dtypes that can be palettized, and their sizes."""
LIST_PARAMETER_MODULES = frozenset(
    f"torch.nn.modules.rnn.{kind}" for kind in ("RNN", "GRU", "LSTM")
)
"""Modules whose parameters torch passes to the op as one list, so that no rule matches them."""
ALL = "*"
"""Key of a spec dict for every tensor that no other key names."""

Specs = Mapping[str, PalettizationSpec | None]
_DISABLED: Specs = {ALL: None}
_MODULE_STATE_RANK = -1
"""Highest precedence: nothing overrides module_state_spec."""


class TensorRule(NamedTuple):
    """The rule for one tensor that an op reads."""

    rank: int
    """Rank of the module that the op belongs to in the order of precedence; the lowest wins."""
    op: Op | None
    config_path: str
    """Path of the module config, or of the op config in it, that applies."""
    path: str | None
    """Path of the rule; None if the config has none for this tensor."""
    spec: PalettizationSpec | None = None
    """Spec of the rule; None keeps the tensor."""
    config: ModuleKMeansPalettizerConfig | None = None
    """Module config that contains the rule."""


@dataclass(frozen=True)
class TensorRules:
    """The rules of all tensors, and the op-level keys that applied."""

    by_tensor: dict[str, TensorRule] = field(default_factory=dict)
    """Tensor name -> rule; tensors that no op reads are absent."""
    used_paths: set[str] = field(default_factory=set)
    """Paths of the op_type_config and op_name_config keys that apply to an op."""


def can_be_palettized(tensor: StoredTensor) -> bool:
    """Return whether a tensor is floating-point with more than one value."""
    return tensor.dtype in FLOAT_BYTES and math.prod(tensor.shape) > 1


def find_tensor_rules(
    checkpoint: Checkpoint,
    tree: ModuleTree,
    module_rules: Mapping[str, ModuleRule],
    patterns: Patterns,
) -> TensorRules:
    """Return the rules of all tensors, from the ops in the order of a forward pass.

    If several ops read a tensor, the module of highest precedence wins; within one module, the
    last op. The module_state_spec of any owner comes before all of them.

    Source: coreai-opt 0.4.0, `StateSpecResolver.resolve`.
    """
    return _TensorRuleFinder(checkpoint, tree, module_rules, patterns).run()


class _TensorRuleFinder:
    """One search for the rules of all tensors."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        tree: ModuleTree,
        module_rules: Mapping[str, ModuleRule],
        patterns: Patterns,
    ) -> None:
        self._checkpoint, self._tree, self._module_rules = checkpoint, tree, module_rules
        self._ranks = {name: rank for rank, name in enumerate(module_rules)}
        self._tensors = {
            name: tensor
            for tensor in checkpoint.tensors
            for name in (tensor.name, *tensor.aliases)
            if can_be_palettized(tensor)
        }
        self._under_state_specs = self._modules_under_state_specs()
        self._op_name_keys = self._match_op_names(patterns)
        self._rules = TensorRules()

    def run(self) -> TensorRules:
        for op in self._checkpoint.ops:
            module = self._tree.canonical(op.module)
            registered = op.type in OP_TYPES
            if not registered and module not in self._under_state_specs:
                continue
            module_rule = self._module_rules[module]
            specs, path = self._op_specs(op, module_rule) if registered else ({}, module_rule.path)
            for name in op.states.values():
                if (tensor := self._tensors.get(name)) is not None:
                    self._visit(tensor, op, module, specs, path)
        self._apply_to_unread_tensors()
        return self._rules

    def _visit(self, tensor: StoredTensor, op: Op, module: str, specs: Specs, path: str) -> None:
        rank, previous = self._ranks[module], self._rules.by_tensor.get(tensor.name)
        if previous is not None and rank > previous.rank:
            return
        if previous is None and (state_rule := self._module_state_rule(tensor, op)) is not None:
            self._rules.by_tensor[tensor.name] = state_rule
            return
        key = _matching_key(specs, tensor)
        self._rules.by_tensor[tensor.name] = TensorRule(
            rank,
            op,
            path,
            path=_rule_path(path, specs, key),
            spec=None if key is None else specs[key],
            config=self._module_rules[module].config,
        )

    def _module_state_rule(self, tensor: StoredTensor, op: Op | None) -> TensorRule | None:
        """Return the first matching module_state_spec of the tensor's owners, by precedence."""
        if not self._under_state_specs:
            return None
        owners = {self._tree.owner(name).name for name in _all_names(tensor)}
        for owner in sorted(owners, key=self._ranks.__getitem__):
            module_rule = self._module_rules[owner]
            if (
                module_rule.config is None
                or not module_rule.is_direct
                or not module_rule.config.module_state_spec
            ):
                continue
            specs = module_rule.config.module_state_spec
            if (key := _matching_key(specs, tensor)) is not None:
                rule = f"{module_rule.path}.{format_path('module_state_spec', key)}"
                return TensorRule(
                    _MODULE_STATE_RANK, op, module_rule.path, rule, specs[key], module_rule.config
                )
        return None

    def _apply_to_unread_tensors(self) -> None:
        """Apply module_state_spec to tensors that no known op reads.

        A graph contains every reader. Without one, all parameters of a module count as read.
        """
        for tensor in self._checkpoint.tensors:
            owner = self._tree.owner(tensor.name)
            if tensor.name in self._rules.by_tensor or tensor.name not in self._tensors:
                continue
            if owner.type_source == "graph" or owner.type in LIST_PARAMETER_MODULES:
                continue
            if (state_rule := self._module_state_rule(tensor, None)) is not None:
                self._rules.by_tensor[tensor.name] = state_rule

    def _op_specs(self, op: Op, module_rule: ModuleRule) -> tuple[Specs, str]:
        """Return the spec dict that applies to an op, and the path of its config."""
        if module_rule.config is None:
            return _DISABLED, module_rule.path
        entry: ModuleKMeansPalettizerConfig | OpKMeansPalettizerConfig | None = module_rule.config
        path = module_rule.path
        key = self._op_name_keys.get(module_rule.path, {}).get(op.name)
        if key is not None:
            entry = module_rule.config.op_name_config[key]
            path = f"{path}.{format_path('op_name_config', key)}"
            self._rules.used_paths.add(path)
        elif op.type in module_rule.config.op_type_config:
            entry = module_rule.config.op_type_config[op.type]
            path = f"{path}.{format_path('op_type_config', op.type)}"
            self._rules.used_paths.add(path)
        if entry is None:
            return _DISABLED, path
        if entry.op_state_spec is None:
            return _DISABLED, f"{path}.op_state_spec"
        return entry.op_state_spec, path

    def _match_op_names(self, patterns: Patterns) -> dict[str, dict[str, str]]:
        """Return, for each module rule's path, op name -> last matching op_name_config key."""
        names: dict[str, list[str]] = defaultdict(list)
        module_rules_with_ops: dict[str, ModuleRule] = {}
        for op in self._checkpoint.ops:
            module_rule = self._module_rules[self._tree.canonical(op.module)]
            if (
                module_rule.config is not None
                and module_rule.config.op_name_config
                and op.type in OP_TYPES
            ):
                names[module_rule.path].append(op.name)
                module_rules_with_ops[module_rule.path] = module_rule
        return {
            path: {
                name: pattern
                for pattern in module_rule.config.op_name_config
                for name in patterns.matching(
                    pattern,
                    sorted(names[path]),
                    module_rule.pointer + json_pointer("op_name_config", pattern),
                )
            }
            for path, module_rule in module_rules_with_ops.items()
            if module_rule.config is not None
        }

    def _modules_under_state_specs(self) -> frozenset[str]:
        """Return the modules that have a module_state_spec, and their descendants."""
        names: set[str] = set()
        for module in self._tree.modules.values():
            module_rule = self._module_rules[module.name]
            has_state_spec = (
                module_rule.is_direct
                and module_rule.config is not None
                and module_rule.config.module_state_spec
            )
            if has_state_spec or (module.name and module.name.rpartition(".")[0] in names):
                names.add(module.name)
        return frozenset(names)


def _matching_key(specs: Specs, tensor: StoredTensor) -> str | None:
    """Return the key that applies to a tensor: the last that is a local name of it, else "*"."""
    names = [name.rpartition(".")[2] for name in _all_names(tensor)]
    exact = [key for key in specs if key in names]
    return exact[-1] if exact else (ALL if ALL in specs else None)


def _rule_path(path: str, specs: Specs, key: str | None) -> str | None:
    if specs is _DISABLED:
        return path
    return None if key is None else f"{path}.{format_path('op_state_spec', key)}"


def _all_names(tensor: StoredTensor) -> tuple[str, ...]:
    return (tensor.name, *tensor.aliases)
