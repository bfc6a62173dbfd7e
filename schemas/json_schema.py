"""JSON Schemas of the models of the API."""

from collections.abc import Mapping
from typing import Any

from palettery.schemas.artifact import ArtifactMetadata
from palettery.schemas.base import Schema
from palettery.schemas.config import (
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    OpKMeansPalettizerConfig,
    PalettizationSpec,
    QuantizationSpec,
    VectorKMeansConfig,
)
from palettery.schemas.jobs import Job, JobPage
from palettery.schemas.plan import Plan
from palettery.schemas.problem import Problem
from palettery.schemas.report import Report

DIALECT = "https://json-schema.org/draft/2020-12/schema"

MODELS: Mapping[str, type[Schema]] = {
    model.__name__: model
    for model in (
        KMeansPalettizerConfig,
        ModuleKMeansPalettizerConfig,
        OpKMeansPalettizerConfig,
        PalettizationSpec,
        QuantizationSpec,
        VectorKMeansConfig,
        ArtifactMetadata,
        Job,
        JobPage,
        Plan,
        Problem,
        Report,
    )
}
"""Models with a published JSON Schema, by class name."""

SCHEMA_NAMES = tuple(MODELS)


def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema 2020-12 of the model with this name.

    Raises:
        KeyError: there is no such model.
    """
    return {"$schema": DIALECT, **MODELS[name].model_json_schema()}
