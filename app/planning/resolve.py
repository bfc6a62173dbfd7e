"""Resolution of a config and a checkpoint to a plan: outcome and rule of every tensor."""

from collections.abc import Set
from dataclasses import dataclass, replace

from palettery.app.checkpoints.op_types import OP_TYPES
from palettery.app.planning.advice import (
    least_size_bytes,
    replacement_warnings,
    tensor_warnings,
)
from palettery.app.planning.incompatibility import (
    find_incompatibility,
    group_count,
    resolve_clustering,
    size_bounds,
)
from palettery.app.planning.left_out_embeddings import left_out_embeddings
from palettery.app.planning.module_rules import ModuleTree, find_module_rules
from palettery.app.planning.pattern_keys import check_patterns
from palettery.app.planning.patterns import Patterns
from palettery.app.planning.strict import find_inapplicable_rules
from palettery.app.planning.tensor_rules import (
    FLOAT_BYTES,
    LIST_PARAMETER_MODULES,
    TensorRule,
    can_be_palettized,
    find_tensor_rules,
)
from palettery.app.planning.unmatched import find_unmatched
from palettery.app.settings import Limits
from palettery.schemas.artifact import PALETTE_KEYS
from palettery.schemas.checkpoint import Checkpoint, Module, StoredTensor
from palettery.schemas.config import KMeansPalettizerConfig, PalettizationSpec
from palettery.schemas.config.presets import EMBEDDING
from palettery.schemas.plan import Clustering, Plan, PlannedTensor


def resolve(config: KMeansPalettizerConfig, checkpoint: Checkpoint, limits: Limits) -> Plan:
    """Return the plan of a job; a pure function of its arguments.

    Raises:
        InvalidConfig: a pattern is not a regular expression, or takes too long to match.
    """
    patterns = Patterns(limits.regex_timeout_s)
    check_patterns(config, patterns)
    tree = ModuleTree(checkpoint.modules)
    module_rules = find_module_rules(config, tree, patterns)
    tensor_rules = find_tensor_rules(checkpoint, tree, module_rules.by_module, patterns)
    inapplicable = find_inapplicable_rules(checkpoint, tree, module_rules.by_module, patterns)
    tensor_rules = replace(tensor_rules, by_tensor=inapplicable | tensor_rules.by_tensor)
    tensor_names = {
        name for tensor in checkpoint.tensors for name in (tensor.name, *tensor.aliases)
    }
    tensors = tuple(
        _plan_tensor(
            tensor, tree.owner(tensor.name), tensor_rules.by_tensor.get(tensor.name), tensor_names
        )
        for tensor in checkpoint.tensors
    )
    warnings = [
        *checkpoint.warnings,
        *replacement_warnings(config, checkpoint, tree, module_rules),
        *tensor_warnings(tensors),
    ]
    embeddings = left_out_embeddings(config, tensors, module_rules)
    if embeddings is not None:
        warnings.append(embeddings.warning)
    return Plan(
        tensors=tensors,
        unmatched=find_unmatched(config, checkpoint, module_rules, tensor_rules),
        warnings=tuple(warnings),
        left_out_embeddings=embeddings,
        size_before_bytes=checkpoint.tensor_bytes(),
        predicted_size_bytes=sum(tensor.predicted_bytes for tensor in tensors),
        least_size_bytes=least_size_bytes(tensors),
    )


@dataclass(frozen=True)
class _Outcome:
    """Outcome of a tensor: kept for a reason, or palettized by a compatible spec."""

    size_bytes: int
    reason: str | None = None
    incompatible: bool = False
    spec: PalettizationSpec | None = None
    clustering: Clustering | None = None
    groups: int = 0
    least_bytes: int | None = None


def _plan_tensor(
    tensor: StoredTensor, module: Module, rule: TensorRule | None, names: Set[str]
) -> PlannedTensor:
    outcome = _decide_outcome(tensor, module, rule, names)
    return PlannedTensor(
        name=tensor.name,
        aliases=tensor.aliases,
        dtype=tensor.dtype,
        shape=tensor.shape,
        size_bytes=tensor.size_bytes,
        module=module.name,
        module_type=module.type,
        type_source=module.type_source,
        op=rule.op.name if rule and rule.op and _is_registered(rule) else None,
        action="keep" if outcome.reason else "palettize",
        rule=rule.path if rule else None,
        reason=outcome.reason,
        incompatible=outcome.incompatible,
        spec=outcome.spec,
        clustering=outcome.clustering,
        groups=outcome.groups,
        predicted_bytes=outcome.size_bytes,
        least_bytes=outcome.least_bytes,
    )


def _decide_outcome(
    tensor: StoredTensor, module: Module, rule: TensorRule | None, names: Set[str]
) -> _Outcome:
    if rule is None or rule.spec is None or rule.config is None:
        return _Outcome(tensor.size_bytes, _keep_reason(tensor, module, rule))
    spec, op_type = rule.spec, rule.op.type if rule.op else None
    clustering = resolve_clustering(spec, rule.config, op_type)
    reason = _unpalettizable_reason(tensor)
    reason = reason or find_incompatibility(tensor.shape, spec, clustering, op_type)
    has_mask = spec.sparsity_detection_threshold is not None
    for key in PALETTE_KEYS if has_mask else PALETTE_KEYS[:-1]:
        if f"{tensor.name}.{key}" in names:
            reason = f"the artifact needs the name of the model's own {tensor.name}.{key}"
    if reason is not None:
        return _Outcome(tensor.size_bytes, reason, incompatible=True)
    groups = group_count(tensor.shape, clustering)
    least, most = size_bounds(tensor.shape, FLOAT_BYTES[tensor.dtype], spec, groups)
    return _Outcome(most, spec=spec, clustering=clustering, groups=groups, least_bytes=least)


def _keep_reason(tensor: StoredTensor, module: Module, rule: TensorRule | None) -> str:
    if (reason := _unpalettizable_reason(tensor)) is not None:
        return reason
    if rule is None and module.type in LIST_PARAMETER_MODULES:
        return "a recurrent module reads its parameters as one list, out of reach of every rule"
    if module.type == EMBEDDING:
        return "embeddings are palettized only where a module_state_spec names them"
    if rule is None or (rule.path is None and not _is_registered(rule)):
        return "no registered op reads it, so only a module_state_spec could name it"
    if rule.path is None:
        local = tensor.name.rpartition(".")[2]
        return f"{rule.config_path} has no spec for {local!r}"
    return "the config switches it off"


def _unpalettizable_reason(tensor: StoredTensor) -> str | None:
    """Return why no spec can palettize a tensor; None if one can."""
    if tensor.dtype not in FLOAT_BYTES:
        return f"{tensor.dtype} cannot be palettized, only {', '.join(FLOAT_BYTES)} can"
    return None if can_be_palettized(tensor) else "it holds no more than one value"


def _is_registered(rule: TensorRule) -> bool:
    return rule.op is not None and rule.op.type in OP_TYPES
