"""Rules for the operations and parameters of a module."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from palettery.schemas.base import Schema
from palettery.schemas.config.granularity import Count
from palettery.schemas.config.limits import MAX_COUNT
from palettery.schemas.config.preset_types import Presets
from palettery.schemas.config.spec import PalettizationSpec

WEIGHTS = ("weight", "in_proj_weight")
"""Parameters that are palettized by default."""


def default_state_spec() -> dict[str, PalettizationSpec | None]:
    """Return the default specs: 4 bits and one palette per tensor, for `WEIGHTS`."""
    return dict.fromkeys(WEIGHTS, PalettizationSpec())


def _none_is_empty(value: object) -> object:
    return {} if value is None else value


def _check_inactive(value: object, info: ValidationInfo) -> dict[str, None]:
    """Check that a spec for activations is empty: coreai-opt's dumps have empty ones."""
    silent = value is None or (
        isinstance(value, Mapping) and all(spec is None for spec in value.values())
    )
    if not silent:
        raise ValueError(
            f"{info.field_name} must be empty: only weights are palettized, "
            "never inputs or outputs of an operation or a module"
        )
    return {}


StateSpecs = dict[str, PalettizationSpec | None]
"""Palettization specs by local parameter name or `*`; None disables."""
Inactive = Annotated[
    dict[str, None],
    BeforeValidator(_check_inactive, json_schema_input_type=dict[str, None] | None),
]


class OpKMeansPalettizerConfig(Schema):
    """Rules for one type of operation, or for operations by name."""

    op_input_spec: Inactive = Field(default_factory=dict)
    """Must be empty."""
    op_output_spec: Inactive = Field(default_factory=dict)
    """Must be empty."""
    op_state_spec: StateSpecs | None = Field(default_factory=default_state_spec)
    """Parameter name or `*` -> spec. Left out: 4 bits for `weight` and `in_proj_weight`;
    null: off."""


OpConfigs = Annotated[
    dict[str, OpKMeansPalettizerConfig | None],
    BeforeValidator(
        _none_is_empty, json_schema_input_type=dict[str, OpKMeansPalettizerConfig | None] | None
    ),
]


class PatSchedule(Schema):
    """Start of palettization-aware training in coreai-opt 0.3; without effect here."""

    enable_fake_palettize: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0
    """Training step."""


class ModuleKMeansPalettizerConfig(Schema):
    """Rules for a module and its descendants.

    For one tensor `module_state_spec` beats `op_name_config`, which beats `op_type_config`, which
    beats `op_state_spec`.
    """

    presets: ClassVar[Presets["ModuleKMeansPalettizerConfig"]]
    """`presets.w4()` and so on."""

    op_input_spec: Inactive = Field(default_factory=dict)
    """Must be empty."""
    op_output_spec: Inactive = Field(default_factory=dict)
    """Must be empty."""
    op_state_spec: StateSpecs | None = Field(default_factory=default_state_spec)
    """Parameter name or `*` -> spec, for every registered operation. Left out: 4 bits for `weight`
    and `in_proj_weight`; null: off; empty: names nothing."""
    op_type_config: OpConfigs = Field(default_factory=dict)
    """Rules by operation type, such as `linear` or `conv2d`; null disables."""
    op_name_config: OpConfigs = Field(default_factory=dict)
    """Rules by regular expression on the operation's full name; null disables."""
    module_input_spec: Inactive = Field(default_factory=dict)
    """Must be empty."""
    module_output_spec: Inactive = Field(default_factory=dict)
    """Must be empty."""
    module_state_spec: Annotated[
        StateSpecs, BeforeValidator(_none_is_empty, json_schema_input_type=StateSpecs | None)
    ] = Field(default_factory=dict)
    """Specs by parameter name or `*`, for this module only and regardless of operations."""
    enable_fast_kmeans_mode: bool = Field(default=True, validate_default=True)
    """Whether weights are rounded before clustering, as in coreai-opt; scalar palettes only."""
    rounding_precision: Count = 4
    """Number of decimals for rounding in fast mode."""
    pat_schedule: PatSchedule | None = None
    """Training schedule of coreai-opt 0.3, without effect here."""

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
