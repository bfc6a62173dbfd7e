"""From a config and a checkpoint to a plan: every tensor's fate, and the rule that decided it."""

from collections.abc import Set
from dataclasses import dataclass, replace

from palettery.app.checkpoints.ops import OP_TYPES
from palettery.app.planning.advice import EMBEDDING, replaced_fields, tensor_warnings
from palettery.app.planning.incompatibility import group_count, misfit, palettized_bytes, settle
from palettery.app.planning.module_rules import ModuleTree, govern
from palettery.app.planning.pattern_keys import check_patterns
from palettery.app.planning.patterns import Patterns
from palettery.app.planning.strict import asked_in_vain
from palettery.app.planning.tensor_rules import (
    FLOAT_BYTES,
    OUT_OF_REACH,
    Decision,
    can_be_palettized,
    decide,
)
from palettery.app.planning.unmatched import find_unmatched
from palettery.app.settings import Limits
from palettery.schemas.artifact import PALETTE_KEYS
from palettery.schemas.checkpoint import Checkpoint, Module, StoredTensor
from palettery.schemas.config import KMeansPalettizerConfig, PalettizationSpec
from palettery.schemas.plan import Clustering, Plan, PlannedTensor


def resolve(config: KMeansPalettizerConfig, checkpoint: Checkpoint, limits: Limits) -> Plan:
    """What a job with this config does to this checkpoint. Pure: the same in, the same out.

    Raises:
        InvalidConfig: a pattern that is no regular expression, or that takes too long to match.
    """
    patterns = Patterns(limits.regex_timeout_s)
    check_patterns(config, patterns)
    tree = ModuleTree(checkpoint.modules)
    government = govern(config, tree, patterns)
    verdicts = decide(checkpoint, tree, government.rules, patterns)
    in_vain = asked_in_vain(checkpoint, tree, government.rules, patterns)
    verdicts = replace(verdicts, tensors=in_vain | verdicts.tensors)
    taken = {name for tensor in checkpoint.tensors for name in (tensor.name, *tensor.aliases)}
    tensors = tuple(
        _plan(tensor, tree.owner(tensor.name), verdicts.tensors.get(tensor.name), taken)
        for tensor in checkpoint.tensors
    )
    replaced = replaced_fields(config, checkpoint, tree, government)
    return Plan(
        tensors=tensors,
        unmatched=find_unmatched(config, checkpoint, government, verdicts),
        warnings=(*checkpoint.warnings, *replaced, *tensor_warnings(tensors, government)),
        size_before_bytes=checkpoint.tensor_bytes(),
        predicted_size_bytes=sum(tensor.predicted_bytes for tensor in tensors),
    )


@dataclass(frozen=True)
class _Fate:
    """What becomes of a tensor: kept for a reason, or palettized under a spec that fits."""

    size_bytes: int
    reason: str | None = None
    incompatible: bool = False
    spec: PalettizationSpec | None = None
    clustering: Clustering | None = None
    groups: int = 0


def _plan(
    tensor: StoredTensor, module: Module, decision: Decision | None, taken: Set[str]
) -> PlannedTensor:
    fate = _fate(tensor, module, decision, taken)
    return PlannedTensor(
        name=tensor.name,
        aliases=tensor.aliases,
        dtype=tensor.dtype,
        shape=tensor.shape,
        size_bytes=tensor.size_bytes,
        module=module.name,
        module_type=module.type,
        type_source=module.type_source,
        op=decision.op.name if decision and decision.op and _is_registered(decision) else None,
        action="keep" if fate.reason else "palettize",
        rule=decision.rule if decision else None,
        reason=fate.reason,
        incompatible=fate.incompatible,
        spec=fate.spec,
        clustering=fate.clustering,
        groups=fate.groups,
        predicted_bytes=fate.size_bytes,
    )


def _fate(
    tensor: StoredTensor, module: Module, decision: Decision | None, taken: Set[str]
) -> _Fate:
    if decision is None or decision.spec is None or decision.config is None:
        return _Fate(tensor.size_bytes, _kept_because(tensor, module, decision))
    spec, op_type = decision.spec, decision.op.type if decision.op else None
    clustering = settle(spec, decision.config, op_type)
    reason = _unfit(tensor) or misfit(tensor.shape, spec, clustering, op_type)
    for key in PALETTE_KEYS:
        if f"{tensor.name}.{key}" in taken:
            reason = f"the artifact needs the name of the model's own {tensor.name}.{key}"
    if reason is not None:
        return _Fate(tensor.size_bytes, reason, incompatible=True)
    groups = group_count(tensor.shape, clustering)
    size = palettized_bytes(tensor.shape, FLOAT_BYTES[tensor.dtype], spec, groups)
    return _Fate(size, spec=spec, clustering=clustering, groups=groups)


def _kept_because(tensor: StoredTensor, module: Module, decision: Decision | None) -> str:
    if (reason := _unfit(tensor)) is not None:
        return reason
    if decision is None and module.type in OUT_OF_REACH:
        return "a recurrent module reads its parameters as one list, out of reach of every rule"
    if module.type == EMBEDDING:
        return "embeddings are palettized only where a module_state_spec names them"
    if decision is None or (decision.rule is None and not _is_registered(decision)):
        return "no registered op reads it, so only a module_state_spec could name it"
    if decision.rule is None:
        local = tensor.name.rpartition(".")[2]
        return f"{decision.under} has no spec for {local!r}"
    return "the config switches it off"


def _unfit(tensor: StoredTensor) -> str | None:
    """Why a tensor cannot be palettized under any spec; None when it can."""
    if tensor.dtype not in FLOAT_BYTES:
        return f"{tensor.dtype} cannot be palettized, only {', '.join(FLOAT_BYTES)} can"
    return None if can_be_palettized(tensor) else "it holds no more than one value"


def _is_registered(decision: Decision) -> bool:
    return decision.op is not None and decision.op.type in OP_TYPES
