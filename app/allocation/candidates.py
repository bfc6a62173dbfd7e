"""Tensors that a target may change, the specs to choose from, and the tensors that stay."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from palettery.app.artifacts.export.formats import FORMATS
from palettery.app.checkpoints.op_types import OP_TYPES
from palettery.app.errors import BadInput
from palettery.app.planning.incompatibility import find_incompatibility, resolve_clustering
from palettery.app.planning.module_rules import ModuleRule, ModuleTree, find_module_rules
from palettery.app.planning.patterns import Patterns
from palettery.app.planning.resolve import resolve
from palettery.app.planning.tensor_rules import TensorRule, can_be_palettized, find_tensor_rules
from palettery.app.settings import Limits
from palettery.schemas.artifact import PALETTE_KEYS, PalettizedWeight
from palettery.schemas.checkpoint import Checkpoint, Module, StoredTensor
from palettery.schemas.config import (
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
    PerGroupedChannelGranularity,
)
from palettery.schemas.config.granularity import Granularity
from palettery.schemas.config.presets import EMBEDDING
from palettery.schemas.plan import Plan, PlannedTensor
from palettery.schemas.targets import Choices

BIAS = "bias"
"""Start of the local names of parameters that are added; they are never chosen."""


@dataclass(frozen=True)
class Candidate:
    """A tensor that a target may change."""

    stored: StoredTensor
    module: str
    op_type: str | None
    config: ModuleKMeansPalettizerConfig
    """Module config that applies."""
    specs: tuple[PalettizationSpec, ...]
    """Specs to choose from; each has an explicit axis."""
    may_keep: bool


@dataclass(frozen=True)
class Candidates:
    """Candidates of a model, and the plan that its config alone gives."""

    plan: Plan
    by_name: Mapping[str, Candidate]
    alike: tuple[tuple[str, ...], ...]
    """Groups of candidates, by tensor name, that get the same spec; every candidate is in one."""
    configs: Mapping[str, ModuleKMeansPalettizerConfig]
    """Module config that applies to each tensor; it says whether fast mode is on."""
    notes: tuple[str, ...] = ()
    """Patterns of the choices that match nothing."""


def find_candidates(
    config: KMeansPalettizerConfig, checkpoint: Checkpoint, choices: Choices, limits: Limits
) -> Candidates:
    """Return what a target may change: weights of Linears, convolutions and Embeddings.

    What the config sets stays: rules with specs, and null. Rules that leave op_state_spec out set
    nothing but fast mode.

    Raises:
        BadInput: the config sets every such tensor, tensors that must be alike have no spec in
            common, or a module must have more bits than it may have.
        InvalidConfig: a pattern is not a regular expression, or takes too long to match.
    """
    return _Search(config, checkpoint, choices, limits).run()


class _Search:
    def __init__(
        self,
        config: KMeansPalettizerConfig,
        checkpoint: Checkpoint,
        choices: Choices,
        limits: Limits,
    ) -> None:
        self._checkpoint, self._choices = checkpoint, choices
        self._patterns = Patterns(limits.regex_timeout_s)
        self._tree = ModuleTree(checkpoint.modules)
        self._plan = resolve(config, checkpoint, limits)
        module_rules = find_module_rules(config, self._tree, self._patterns)
        self._module_rules = module_rules.by_module
        self._tensor_rules = find_tensor_rules(
            checkpoint, self._tree, module_rules.by_module, self._patterns
        ).by_tensor
        self._names = {n for t in checkpoint.tensors for n in (t.name, *t.aliases)}
        self._unmatched: list[str] = []
        self._least = self._bits("min_bits", choices.min_bits)
        self._most = self._bits("max_bits", choices.max_bits)
        self._check_bounds()

    def run(self) -> Candidates:
        by_name: dict[str, Candidate] = {}
        pinned = set()
        for stored in self._checkpoint.tensors:
            module = self._tree.owner(stored.name)
            rule = self._tensor_rules.get(stored.name)
            if not self._is_choosable(stored, module, rule):
                continue
            module_rule = self._module_rules[module.name]
            if self._is_pinned(rule, module_rule):
                pinned.add(stored.name)
            else:
                by_name[stored.name] = self._candidate(stored, module, rule, module_rule)
        if not by_name:
            raise BadInput(_nothing_to_choose(len(pinned)))
        return self._with_alike(by_name, frozenset(pinned))

    def _is_choosable(self, stored: StoredTensor, module: Module, rule: TensorRule | None) -> bool:
        reached = rule is not None and rule.op is not None and rule.op.type in OP_TYPES
        return (
            can_be_palettized(stored)
            and len(stored.shape) > 1
            and (reached or module.type == EMBEDDING)
            and not stored.name.rpartition(".")[2].startswith(BIAS)
            and not any(f"{stored.name}.{key}" in self._names for key in PALETTE_KEYS[:-1])
        )

    def _is_pinned(self, rule: TensorRule | None, module_rule: ModuleRule) -> bool:
        """Return whether the config itself says what to do with a tensor."""
        path = (rule and rule.path) or ""
        if rule and path.removeprefix(rule.config_path).startswith(".module_state_spec"):
            return True
        if rule is None or rule.op is None or rule.op.type not in OP_TYPES:
            return module_rule.config is None
        of_op = self._module_rules[self._tree.canonical(rule.op.module)]
        return (
            rule.config is None
            or rule.config_path != of_op.path
            or "op_state_spec" in rule.config.model_fields_set
        )

    def _candidate(
        self,
        stored: StoredTensor,
        module: Module,
        rule: TensorRule | None,
        module_rule: ModuleRule,
    ) -> Candidate:
        config = (rule and rule.config) or module_rule.config or ModuleKMeansPalettizerConfig()
        op_type = rule.op.type if rule and rule.op else None
        specs = tuple(self._specs(stored, module.name, op_type, config))
        may_keep = (self._choices.keep and module.name not in self._most) or not specs
        return Candidate(stored, module.name, op_type, config, specs, may_keep)

    def _specs(
        self,
        stored: StoredTensor,
        module: str,
        op_type: str | None,
        config: ModuleKMeansPalettizerConfig,
    ) -> list[PalettizationSpec]:
        least, most = self._least.get(module, 1), self._most.get(module, 8)
        granularities = {
            _with_axis(each, stored.shape, op_type): None for each in self._choices.granularities
        }
        specs = []
        for granularity in granularities:
            for n_bits in self._choices.n_bits:
                spec = PalettizationSpec(n_bits=n_bits, granularity=granularity)
                clustering = resolve_clustering(spec, config, op_type)
                misfit = find_incompatibility(stored.shape, spec, clustering, op_type)
                weight = PalettizedWeight(
                    n_bits=n_bits,
                    axis=clustering.axis,
                    group_size=clustering.group_size,
                    shape=stored.shape,
                    dtype=stored.dtype,
                )
                if least <= n_bits <= most and misfit is None and self._is_expressible(weight):
                    specs.append(spec)
        return specs

    def _is_expressible(self, weight: PalettizedWeight) -> bool:
        return not any(
            FORMATS[each].unsupported_feature(weight, False) for each in self._choices.formats
        )

    def _bits(self, field: str, by_pattern: Mapping[str, int]) -> dict[str, int]:
        """Return module -> bits; among several patterns that match, the later one wins."""
        bits: dict[str, int] = {}
        for pattern, limit in by_pattern.items():
            self._patterns.check(pattern, f"/choices/{field}")
            matching = self._patterns.matching(pattern, self._tree.names, f"/choices/{field}")
            if not matching:
                self._unmatched.append(f"{field} {pattern!r} matches no module's whole name")
            for name in matching:
                bits[self._tree.canonical(name)] = limit
        return bits

    def _check_bounds(self) -> None:
        """Check that no module must have more bits than it may have.

        Raises:
            BadInput: one must.
        """
        for module, most in self._most.items():
            if (least := self._least.get(module, 1)) > most:
                raise BadInput(
                    f"the choices give {module} at least {least} bits by min_bits and at most "
                    f"{most} by max_bits; change one of them"
                )

    def _with_alike(self, by_name: dict[str, Candidate], pinned: frozenset[str]) -> Candidates:
        planned = {tensor.name: tensor for tensor in self._plan.tensors}
        groups: list[tuple[str, ...]] = []
        for together in self._groups({**dict.fromkeys(pinned), **dict.fromkeys(by_name)}):
            free = tuple(name for name in together if name in by_name)
            fixed = [planned[name] for name in together if name in pinned]
            self._narrow(by_name, free, fixed)
            if free:
                groups.append(free)
        configs = {
            name: rule.config
            for name, rule in self._tensor_rules.items()
            if rule.config is not None
        }
        configs |= {name: candidate.config for name, candidate in by_name.items()}
        return Candidates(self._plan, by_name, tuple(groups), configs, tuple(self._unmatched))

    def _groups(self, names: Mapping[str, None]) -> list[list[str]]:
        """Return tensors that must be alike together, all others alone."""
        groups: dict[tuple[object, ...], list[str]] = defaultdict(list)
        ends = sorted({self._tree.owner(name).name.rpartition(".")[2] for name in names})
        lists: dict[str, int] = {}
        for number, patterns in enumerate(self._choices.same):
            for pattern in patterns:
                self._patterns.check(pattern, f"/choices/same/{number}")
                matching = self._patterns.matching(pattern, ends, f"/choices/same/{number}")
                if not matching:
                    self._unmatched.append(f"same {pattern!r} matches no module that may be chosen")
                for end in matching:
                    lists.setdefault(end, number)
        for name in names:
            parent, _, end = self._tree.owner(name).name.rpartition(".")
            local = name.rpartition(".")[2]
            key = (parent, lists[end], local) if end in lists else (name,)
            groups[key].append(name)
        return list(groups.values())

    def _narrow(
        self, by_name: dict[str, Candidate], free: tuple[str, ...], fixed: list[PlannedTensor]
    ) -> None:
        """Leave tensors that must be alike the specs that all of them can take."""
        if len(free) + len(fixed) < 2:
            return
        allowed = [set(by_name[name].specs) for name in free]
        allowed += [{tensor.spec} if tensor.spec else set() for tensor in fixed]
        common = set.intersection(*allowed) if allowed else set()
        may_keep = all(by_name[name].may_keep for name in free) and all(
            tensor.action == "keep" for tensor in fixed
        )
        if not common and not may_keep:
            names = ", ".join([*free, *(tensor.name for tensor in fixed)])
            raise BadInput(
                f"{names} must be alike, and have no spec in common; change `same`, the bits of "
                "their modules, or the config's rules for them"
            )
        for name in free:
            specs = tuple(spec for spec in by_name[name].specs if spec in common)
            before = by_name[name]
            by_name[name] = Candidate(
                before.stored, before.module, before.op_type, before.config, specs, may_keep
            )


def _with_axis(
    granularity: Granularity, shape: tuple[int, ...], op_type: str | None
) -> Granularity:
    """Return a granularity with an explicit axis: the operation's own, or else the other one."""
    if not isinstance(granularity, PerGroupedChannelGranularity) or granularity.axis is not None:
        return granularity
    registered = OP_TYPES.get(op_type or "")
    axis = registered.default_axis if registered else 0
    if shape[axis] % granularity.group_size and not shape[1 - axis] % granularity.group_size:
        axis = 0 if axis else 1
    return PerGroupedChannelGranularity(
        type="per_grouped_channel", group_size=granularity.group_size, axis=axis
    )


def _nothing_to_choose(pinned: int) -> str:
    if pinned:
        return (
            f"the config sets all {pinned} weights of Linears, convolutions and Embeddings, so "
            "that a target has nothing to choose; leave out the preset, or op_state_spec and null "
            "for those that it may choose"
        )
    return (
        "the model has no weight of a Linear, a convolution or an Embedding of floating-point "
        "values, so a target has nothing to choose"
    )
