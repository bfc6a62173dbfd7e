"""Rules for the operations and parameters of a module."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from palettery.schemas.base import Schema, is_none
from palettery.schemas.config.assignable import AssignableSchema
from palettery.schemas.config.granularity import Count
from palettery.schemas.config.limits import MAX_INT64
from palettery.schemas.config.preset_types import Presets
from palettery.schemas.config.spec import PalettizationSpec, default_weight_palettization_spec
from palettery.schemas.config.vector_kmeans import VectorKMeansConfig

WEIGHTS = ("weight", "in_proj_weight")
"""Parameters that are palettized by default."""


def default_state_spec() -> dict[str, PalettizationSpec | None]:
    """Return the default specs: 4 bits and one palette per tensor, for `WEIGHTS`."""
    return dict.fromkeys(WEIGHTS, default_weight_palettization_spec())


def _none_to_empty(value: object) -> object:
    return {} if value is None else value


def _require_empty(value: object, info: ValidationInfo) -> dict[str, None]:
    """Check that the specs for activations are empty, as in coreai-opt's dumps."""
    specs = {} if value is None else value
    if not isinstance(specs, Mapping) or any(spec is not None for spec in specs.values()):
        raise ValueError(
            f"{info.field_name} must be empty: only weights are palettized, "
            "never inputs or outputs of an operation or a module"
        )
    if not all(isinstance(key, str | int) for key in specs):
        raise ValueError(f"keys of {info.field_name} must be text or whole numbers")
    return {}


StateSpecs = dict[str, PalettizationSpec | None]
"""Palettization specs by local parameter name or `*`; None disables."""
EmptySpecs = Annotated[
    dict[str, None],
    BeforeValidator(_require_empty, json_schema_input_type=dict[str, None] | None),
]


class OpKMeansPalettizerConfig(AssignableSchema):
    """Rules for one type of operation, or for operations by name."""

    op_input_spec: EmptySpecs = Field(default_factory=dict)
    """Must be empty."""
    op_output_spec: EmptySpecs = Field(default_factory=dict)
    """Must be empty."""
    op_state_spec: StateSpecs | None = Field(default_factory=default_state_spec)
    """Parameter name or `*` -> spec. Left out: 4 bits for `weight` and `in_proj_weight`;
    null: off."""


OpConfigs = Annotated[
    dict[str, OpKMeansPalettizerConfig | None],
    BeforeValidator(
        _none_to_empty, json_schema_input_type=dict[str, OpKMeansPalettizerConfig | None] | None
    ),
]


class PATSchedule(Schema):
    """Schedule of palettization-aware training in coreai-opt; without effect here."""

    enable_fake_palettize: Annotated[int, Field(ge=0, le=MAX_INT64)] = 0
    """Training step."""


class ModuleKMeansPalettizerConfig(AssignableSchema):
    """Rules for a module and its descendants.

    Precedence for a tensor: `module_state_spec`, `op_name_config`, `op_type_config`,
    `op_state_spec`.
    """

    presets: ClassVar[Presets["ModuleKMeansPalettizerConfig"]]
    """`presets.w4()` and so on."""

    op_input_spec: EmptySpecs = Field(default_factory=dict)
    """Must be empty."""
    op_output_spec: EmptySpecs = Field(default_factory=dict)
    """Must be empty."""
    op_state_spec: StateSpecs | None = Field(default_factory=default_state_spec)
    """Parameter name or `*` -> spec, for every registered operation. Left out: 4 bits for `weight`
    and `in_proj_weight`; null: off; empty: no parameter."""
    op_type_config: OpConfigs = Field(default_factory=dict)
    """Rules by operation type, such as `linear` or `conv2d`; null disables."""
    op_name_config: OpConfigs = Field(default_factory=dict)
    """Rules by regular expression on the operation's full name; null disables."""
    module_input_spec: EmptySpecs = Field(default_factory=dict)
    """Must be empty."""
    module_output_spec: EmptySpecs = Field(default_factory=dict)
    """Must be empty."""
    module_state_spec: Annotated[
        StateSpecs, BeforeValidator(_none_to_empty, json_schema_input_type=StateSpecs | None)
    ] = Field(default_factory=dict)
    """Specs by parameter name or `*`, for this module only and regardless of operations."""
    enable_fast_kmeans_mode: bool = Field(default=True, validate_default=True)
    """Whether weights are rounded before clustering, as in coreai-opt; scalar palettes only."""
    rounding_precision: Count = 4
    """Number of decimals for rounding in fast mode."""
    pat_schedule: PATSchedule | None = None
    """Training schedule of coreai-opt, without effect here."""
    vector_kmeans_config: VectorKMeansConfig | None = Field(default=None, exclude_if=is_none)
    """K-means settings of vector palettes; only where a spec of this rule has a cluster_dim above
    1. Null: the defaults."""

    @field_validator("enable_fast_kmeans_mode")
    @classmethod
    def _check_fast_mode(cls, value: bool, info: ValidationInfo) -> bool:
        specs: StateSpecs = info.data.get("op_state_spec") or {}
        vectors = {name: spec.cluster_dim for name, spec in specs.items() if spec}
        vectors = {name: dim for name, dim in vectors.items() if dim > 1}
        if value and vectors:
            got = ", ".join(f"{dim} for {name!r}" for name, dim in vectors.items())
            raise ValueError(
                "enable_fast_kmeans_mode must be false (the default is true) where "
                f"cluster_dim is above 1; got cluster_dim {got}"
            )
        return value

    @field_validator("vector_kmeans_config")
    @classmethod
    def _check_vectors(
        cls, value: VectorKMeansConfig | None, info: ValidationInfo
    ) -> VectorKMeansConfig | None:
        fields = ("op_state_spec", "op_type_config", "op_name_config", "module_state_spec")
        if value is None or any(name not in info.data for name in fields):
            return value
        state_specs = [info.data["op_state_spec"], info.data["module_state_spec"]]
        for configs in (info.data["op_type_config"], info.data["op_name_config"]):
            state_specs += [op.op_state_spec for op in configs.values() if op]
        specs = [spec for by_name in state_specs for spec in (by_name or {}).values()]
        if not any(spec and spec.cluster_dim > 1 for spec in specs):
            raise ValueError(
                "vector_kmeans_config is for vector palettes, but no spec of this rule has a "
                "cluster_dim above 1; leave it out, or set a cluster_dim"
            )
        return value
