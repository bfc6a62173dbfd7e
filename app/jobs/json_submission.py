"""Requests in JSON, for models that were uploaded before."""

import hashlib
import json
from dataclasses import dataclass

from pydantic import ValidationError

from palettery.app.errors import BadInput
from palettery.app.storage.spooled_content import Content, pieces
from palettery.schemas.config import ConfigError
from palettery.schemas.config.errors import describe_errors
from palettery.schemas.config.parsing import load_json
from palettery.schemas.job_options import JobOptions
from palettery.schemas.jobs import JobSubmission


@dataclass(frozen=True)
class StoredModels:
    """Models of a request that were uploaded before."""

    model_id: str
    sensitivities_id: str | None


@dataclass(frozen=True)
class ParsedSubmission:
    """A JSON body without its config, which is validated later, with the model."""

    models: StoredModels
    options: JobOptions
    config_sha256: str | None
    """Digest of the config as JSON; None without a config."""


def read_submission(body: Content) -> ParsedSubmission:
    """Parse a JSON body; the processes of `document_pool` run this.

    Raises:
        BadInput: names every field at fault.
    """
    try:
        data = load_json(b"".join(pieces(body)))
    except ConfigError as error:
        raise BadInput("the body is not a JSON object that can be read", error.errors) from error
    config = data.pop("config", None)
    try:
        submission = JobSubmission.model_validate(data, strict=True)
    except ValidationError as error:
        faults = describe_errors(error, JobSubmission)
        raise BadInput("the request is not valid; `errors` names each field", faults) from error
    return ParsedSubmission(
        StoredModels(submission.model_id, submission.sensitivities_id),
        JobOptions.model_validate(submission.model_dump(include=set(JobOptions.model_fields))),
        None if config is None else hashlib.sha256(json.dumps(config).encode()).hexdigest(),
    )
