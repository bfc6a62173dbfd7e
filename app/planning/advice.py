"""Warnings of a plan: nothing is palettized, tensors grow, or a rule drops settings of another."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence

from palettery.app.checkpoints.op_types import OP_TYPES
from palettery.app.planning.module_rules import ModuleRules, ModuleTree
from palettery.app.planning.paths import format_path
from palettery.schemas.base import Schema
from palettery.schemas.checkpoint import Checkpoint
from palettery.schemas.config import (
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
)
from palettery.schemas.plan import PlannedTensor

_LEVELS = {"global_config": 0, "module_type_configs": 1, "module_name_configs": 2}
"""Field of the config -> its precedence; the most general has 0."""
_MODULE_FIELDS = (
    "enable_fast_kmeans_mode",
    "rounding_precision",
    "vector_kmeans_config",
    "op_type_config",
    "op_name_config",
)


def tensor_warnings(tensors: Sequence[PlannedTensor]) -> Iterator[str]:
    """Warn of plans that palettize nothing, or enlarge tensors."""
    palettized = [tensor for tensor in tensors if tensor.action == "palettize"]
    if not palettized:
        yield (
            "the config palettizes nothing: every tensor is kept, each with its reason; see which "
            "rules reach which modules, or start from the preset w4"
        )
    larger = [tensor for tensor in palettized if tensor.predicted_bytes > tensor.size_bytes]
    if larger:
        worst = max(larger, key=lambda tensor: tensor.predicted_bytes - tensor.size_bytes)
        bits = 8 * worst.predicted_bytes / math.prod(worst.shape)
        yield (
            f"{_pluralize(len(larger), 'tensor takes', 'tensors take')} more bytes than before, as "
            f"tables outweigh what indices save: {worst.name} of shape {list(worst.shape)} goes "
            f"from {worst.size_bytes:,} to {worst.predicted_bytes:,} bytes ({bits:.0f} bits a "
            "weight); use fewer n_bits or larger groups there, or null"
        )
    if (least := least_size_bytes(tensors)) is not None:
        count = sum(tensor.least_bytes is not None for tensor in tensors)
        most = sum(tensor.predicted_bytes for tensor in tensors)
        yield (
            f"{_pluralize(count, 'tensor', 'tensors')} may be sparse, which only the data say: all "
            f"tensors together take from {least:,} to {most:,} bytes"
        )


def least_size_bytes(tensors: Sequence[PlannedTensor]) -> int | None:
    """Return the lower bound of the total size; None if it is exact."""
    if all(tensor.least_bytes is None for tensor in tensors):
        return None
    return sum(
        tensor.predicted_bytes if tensor.least_bytes is None else tensor.least_bytes
        for tensor in tensors
    )


def replacement_warnings(
    config: KMeansPalettizerConfig,
    checkpoint: Checkpoint,
    tree: ModuleTree,
    module_rules: ModuleRules,
) -> Iterator[str]:
    """Yield a warning for each rule that drops settings of a more general rule for its modules.

    A more specific rule replaces a more general one whole; nothing is merged, as in coreai-opt.
    """
    running = {tree.canonical(op.module) for op in checkpoint.ops if op.type in OP_TYPES}
    configs = {"global_config": config.global_config}
    pairs: dict[tuple[str, str], bool] = {}
    for module in tree.modules.values():
        rule = module_rules.by_module[module.name]
        by_type = format_path("module_type_configs", f"{module.type}")
        configs[rule.path] = rule.config
        configs[by_type] = config.module_type_configs.get(module.type or "")
        for general in (by_type, "global_config"):
            pair = rule.path, general
            pairs[pair] = pairs.get(pair, False) or module.name in running
    for (specific, general), runs_op in pairs.items():
        if _LEVELS[specific.partition("[")[0]] <= _LEVELS[general.partition("[")[0]]:
            continue
        if fields := list(
            _dropped_settings(configs[general], configs[specific], with_specs=runs_op)
        ):
            yield (
                f"{specific} replaces {general} whole for the modules it names, so that it leaves "
                f"out {', '.join(fields)} there; write it in {specific}, too, to have it"
            )


def _dropped_settings(
    general: ModuleKMeansPalettizerConfig | None,
    specific: ModuleKMeansPalettizerConfig | None,
    *,
    with_specs: bool,
) -> Iterator[str]:
    """Yield the settings of the general config that the specific one neither sets nor equals."""
    if general is None or specific is None:
        return
    yield from _differences(general, specific, _MODULE_FIELDS)
    if not with_specs or "op_state_spec" not in general.model_fields_set:
        return
    specs, others = general.op_state_spec or {}, specific.op_state_spec or {}
    differences = dict[str, None]()
    for key, spec in specs.items():
        other = others.get(key, others.get("*"))
        if spec is not None and other is not None:
            differences |= dict.fromkeys(_differences(spec, other, type(spec).model_fields))
    yield from differences


def _differences(general: Schema, specific: Schema, fields: Iterable[str]) -> Iterator[str]:
    """Yield fields that the general schema sets and the specific one leaves at another default."""
    for field in fields:
        value = getattr(general, field)
        is_left_out = field in general.model_fields_set and field not in specific.model_fields_set
        if is_left_out and value != getattr(specific, field):
            value_json = json.dumps(general.model_dump(mode="json", include={field})[field])
            yield f"{field}: {value_json}"


def _pluralize(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
