"""JSON Schema of everything that crosses the API."""

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
        ArtifactMetadata,
        Job,
        JobPage,
        Plan,
        Problem,
        Report,
    )
}
"""Models by the name their schema is served under."""

SCHEMA_NAMES = tuple(MODELS)


def json_schema(name: str) -> dict[str, Any]:
    """JSON Schema 2020-12 of the model with this name.

    Raises:
        KeyError: there is none.
    """
    return {"$schema": DIALECT, **MODELS[name].model_json_schema()}
