"""Conversion of users' arguments to parts of requests: models, configs, and evaluations."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from palettery.app.errors import ERRORS, BadInput, Conflict, InvalidConfig, PaletteryError
from palettery.schemas.config import ConfigError, KMeansPalettizerConfig
from palettery.schemas.config.errors import describe_errors
from palettery.schemas.config.parsing import load_text
from palettery.schemas.evaluation import EvaluationOptions, Quality
from palettery.schemas.jobs import Job
from palettery.schemas.models import ModelSummary

Paths = str | Path | Sequence[str | Path]
"""One file, or all files of one model."""
Source = ModelSummary | Paths
"""A model on the server, its id, or files to upload."""
Config = str | Path | Mapping[str, object] | KMeansPalettizerConfig
"""A config as text, as a file, as parsed data, or as a typed object."""
MODEL_ID = re.compile(r"[0-9a-f]{64}")


def paths_of(paths: Paths) -> list[Path]:
    """Return one path or several as a list."""
    return [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]


def model_id_of(source: Source) -> str | None:
    """Return the id of a model that is on the server; None if the source is files."""
    if isinstance(source, ModelSummary):
        return source.id
    files = paths_of(source)
    is_id = len(files) == 1 and MODEL_ID.fullmatch(str(files[0])) and not files[0].exists()
    return str(files[0]) if is_id else None


def split_sources(inputs: Source) -> Sequence[Source]:
    """Return the files of inputs as separate sources: each is uploaded as a model of its own."""
    return [inputs] if isinstance(inputs, ModelSummary) else paths_of(inputs)


def text_of(config: Config) -> str:
    """Return a config as text, which the server validates.

    Raises:
        BadInput: it cannot be read, or is no text at all.
    """
    try:
        if isinstance(config, Path):
            return config.read_text("utf-8")
        if isinstance(config, KMeansPalettizerConfig):
            return config.model_dump_json()
        return config if isinstance(config, str) else json.dumps(config)
    except UnicodeDecodeError as error:
        raise BadInput(
            f"the config {config} is not UTF-8 text: byte {error.object[error.start]:#04x} at "
            f"{error.start}; save it as UTF-8 (in PowerShell: Out-File -Encoding utf8)"
        ) from error
    except OSError as error:
        raise BadInput(f"cannot read the config {config}: {error}") from error
    except (TypeError, ValueError) as error:
        raise BadInput(f"the config cannot be written as JSON: {error}") from error


def document_of(config: Config) -> dict[str, object]:
    """Return a config as parsed data.

    Raises:
        BadInput: see `text_of`.
        InvalidConfig: it is neither JSON nor YAML.
    """
    try:
        return {str(key): value for key, value in load_text(text_of(config)).items()}
    except ConfigError as error:
        raise InvalidConfig("the config is not valid", error.errors) from error


def document_request(config: Config) -> dict[str, Any]:
    """Return the body and header of a request with a config; JSON is sent as YAML, too."""
    return {
        "content": text_of(config).encode(errors="surrogatepass"),
        "headers": {"Content-Type": "application/yaml"},
    }


def evaluation_request(
    inputs_id: str | Sequence[str], at_least: Quality | Mapping[str, float] | None
) -> dict[str, object]:
    """Return the body of a request for an evaluation.

    Raises:
        BadInput: the quality is not valid.
    """
    try:
        options = EvaluationOptions.model_validate({"inputs_id": inputs_id, "at_least": at_least})
    except ValidationError as error:
        errors = describe_errors(error, EvaluationOptions)
        raise BadInput("; ".join(item.detail for item in errors), errors) from error
    return options.model_dump(mode="json", exclude_none=True)


def config_path(reference: str) -> str:
    """Return the URL path of a named config."""
    return f"/v1/configs/{quote(reference, safe='@')}"


def check_scored(job: Job) -> None:
    """Check that the job that a plan with a target waits for has succeeded.

    Raises:
        PaletteryError: it failed, with its error, or was cancelled.
    """
    if job.error is not None:
        raise ERRORS.get(job.error.code, PaletteryError)(job.error.detail)
    if job.state != "succeeded":
        raise Conflict(f"job {job.id}, which computes the scores, was {job.state}; plan again")
