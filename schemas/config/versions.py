"""Configs for older versions of coreai-opt."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

from palettery.schemas.base import Schema
from palettery.schemas.config.errors import ConfigError, Step, pointer, short_repr
from palettery.schemas.config.lut import QuantizationSpec
from palettery.schemas.config.module import ModuleKMeansPalettizerConfig, PATSchedule
from palettery.schemas.config.spec import DefaultTrainingSpec, PalettizationSpec
from palettery.schemas.config.vector_kmeans import VectorKMeansConfig
from palettery.schemas.problem import InvalidField

Version = Literal["0.2", "0.3", "0.4"]
"""Versions of coreai-opt that a config can be written for."""


class _Addition(NamedTuple):
    """A config field that a version of coreai-opt introduced."""

    version: Version
    field: str
    omittable: tuple[object, ...]
    """Values with which the field can be left out, as older versions behave the same."""


_ADDITIONS: Mapping[type[Schema], tuple[_Addition, ...]] = {
    PalettizationSpec: (
        _Addition("0.3", "training_strategy_spec", (DefaultTrainingSpec(),)),
        _Addition("0.4", "sparsity_detection_threshold", (None,)),
    ),
    ModuleKMeansPalettizerConfig: (
        _Addition("0.3", "pat_schedule", (None, PATSchedule())),
        _Addition("0.4", "vector_kmeans_config", (None, VectorKMeansConfig())),
    ),
}


def dump_for(config: Schema, version: Version, *prefix: Step) -> dict[str, Any]:
    """Return a config as JSON data that this version of coreai-opt reads.

    Raises:
        ValueError: there is no such version.
        ConfigError: lists all settings of the config that the version lacks.
    """
    if version not in get_args(Version):
        raise ValueError(f"version must be one of {', '.join(get_args(Version))}; got {version!r}")
    data, errors = config.model_dump(mode="json"), list[InvalidField]()
    for steps, schema in _nested_schemas(config):
        for addition in _ADDITIONS.get(type(schema), ()):
            value = getattr(schema, addition.field)
            if addition.version <= version:
                continue
            if value in addition.omittable:
                _value_at(data, steps).pop(addition.field, None)
            else:
                errors.append(
                    _unsupported_field((*prefix, *steps, addition.field), value, version, addition)
                )
        if isinstance(schema, QuantizationSpec) and version == "0.2":
            errors.extend(_unsupported_calculators(schema, (*prefix, *steps)))
    if errors:
        raise ConfigError(*errors)
    return data


def _nested_schemas(value: object, *steps: Step) -> Iterator[tuple[tuple[Step, ...], Schema]]:
    """Yield every schema in a config with its path."""
    if isinstance(value, Schema):
        yield steps, value
    if isinstance(value, Schema | dict):
        for key, nested in dict(value).items():
            yield from _nested_schemas(nested, *steps, key)


def _value_at(data: dict[str, Any], steps: tuple[Step, ...]) -> dict[str, Any]:
    for step in steps:
        data = data[str(step)]
    return data


def _unsupported_field(
    steps: tuple[Step, ...], value: object, version: Version, addition: _Addition
) -> InvalidField:
    written = value.model_dump(mode="json") if isinstance(value, Schema) else value
    return InvalidField(
        pointer=pointer(*steps),
        detail=f"{addition.field} {short_repr(written)} cannot be said in coreai-opt {version}, "
        f"which lacks it; write for {addition.version}, or leave it out",
    )


def _unsupported_calculators(
    spec: QuantizationSpec, steps: tuple[Step, ...]
) -> Iterator[InvalidField]:
    if spec.qparam_calculator_cls == "dynamic":
        yield InvalidField(
            pointer=pointer(*steps, "qparam_calculator_cls"),
            detail="qparam_calculator_cls 'dynamic' cannot be said in coreai-opt 0.2, which lacks "
            "it; write for 0.3, or leave it out",
        )
