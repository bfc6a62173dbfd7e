"""Large embeddings that a config leaves out, and the rule that includes them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from palettery.app.planning.incompatibility import palettized_bytes
from palettery.app.planning.module_rules import ModuleRule, ModuleRules
from palettery.app.planning.tensor_rules import FLOAT_BYTES
from palettery.schemas.config import (
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
)
from palettery.schemas.config.module import WEIGHTS
from palettery.schemas.config.presets import EMBEDDING
from palettery.schemas.plan import LeftOutEmbeddings, PlannedTensor

LARGE_SHARE: Final = 0.05
"""Share of a model's bytes from which embeddings are worth a word."""
_CLUSTERING_FIELDS: Final = {
    "enable_fast_kmeans_mode",
    "rounding_precision",
    "vector_kmeans_config",
}


def left_out_embeddings(
    config: KMeansPalettizerConfig, tensors: Sequence[PlannedTensor], module_rules: ModuleRules
) -> LeftOutEmbeddings | None:
    """Return the embeddings that no rule of the config names, if they are large.

    Those of modules that the config disables or names are the user's own choice.
    """
    left_out = [
        tensor for tensor in tensors if _is_left_out(tensor, module_rules.by_module[tensor.module])
    ]
    size, total = (sum(tensor.size_bytes for tensor in some) for some in (left_out, tensors))
    if not left_out or size < LARGE_SHARE * total:
        return None
    spec = PalettizationSpec(n_bits=_n_bits(config))
    predicted = sum(
        palettized_bytes(tensor.shape, FLOAT_BYTES[tensor.dtype], spec, 1) for tensor in left_out
    )
    rule = {"module_type_configs": {EMBEDDING: _module_rule(config, left_out, spec)}}
    return LeftOutEmbeddings(
        tensors=tuple(tensor.name for tensor in left_out),
        size_bytes=size,
        predicted_bytes=predicted,
        rule=rule,
        warning=_warning(len(left_out), size, size / total, size - predicted, rule),
    )


def _is_left_out(tensor: PlannedTensor, rule: ModuleRule) -> bool:
    return (
        tensor.action == "keep"
        and tensor.module_type == EMBEDDING
        and tensor.rule is None
        and rule.config is not None
        and not rule.path.startswith("module_name_configs")
        and tensor.dtype in FLOAT_BYTES
        and len(tensor.shape) > 1
    )


def _n_bits(config: KMeansPalettizerConfig) -> Any:
    """Return the bits that the config has for weights in general, or else 4."""
    specs = (config.global_config and config.global_config.op_state_spec) or {}
    spec = next((specs[key] for key in (*WEIGHTS, "*") if specs.get(key) is not None), None)
    return (spec or PalettizationSpec()).n_bits


def _module_rule(
    config: KMeansPalettizerConfig, left_out: Sequence[PlannedTensor], spec: PalettizationSpec
) -> dict[str, Any]:
    """Return the settings for embeddings; with those of the config that it would replace."""
    specs = {tensor.name.rpartition(".")[2]: {"n_bits": spec.n_bits} for tensor in left_out}
    general = config.module_type_configs.get(EMBEDDING) or config.global_config
    if general is None:
        return {"module_state_spec": specs}
    default = ModuleKMeansPalettizerConfig()
    fields = {
        each for each in _CLUSTERING_FIELDS if getattr(general, each) != getattr(default, each)
    }
    return {**general.model_dump(mode="json", include=fields), "module_state_spec": specs}


def _warning(count: int, size: int, share: float, saved: int, rule: Mapping[str, Any]) -> str:
    kept = f"{count:,} {'embedding is' if count == 1 else 'embeddings are'} kept"
    text = yaml.safe_dump(rule, default_flow_style=True, width=1 << 16).strip()[1:-1]
    return (
        f"{kept}, {size / 1e6:,.1f} MB ({share:.0%} of the model), as in coreai-opt, unless a "
        f"module_state_spec names them; `{text}` would save {saved / 1e6:,.1f} MB"
    )
