"""What a request asks for, as a form or as JSON says it."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from palettery.app.configs.documents import ConfigDocument
from palettery.app.errors import BadInput, InvalidUpload
from palettery.app.http.multipart import Form
from palettery.app.storage.spooled_content import Content, pieces
from palettery.schemas.config import ConfigError
from palettery.schemas.config.errors import describe_errors
from palettery.schemas.config.parsing import load_json
from palettery.schemas.exports import EXPORT_FORMATS, ExportFormat
from palettery.schemas.jobs import JobSubmission
from palettery.schemas.labels import check_label

Default = TypeVar("Default", int, None)

DEADLINES_S = range(1, 30 * 86_400 + 1)
PRIORITIES = range(10)
DEFAULT_PRIORITY = 5


@dataclass(frozen=True)
class JobOptions:
    """How a job is to be run, and by which config."""

    config: ConfigDocument | None = None
    config_name: str | None = None
    preset: str | None = None
    label: str | None = None
    """What to call the job."""
    strict: bool = False
    """Refuse what cannot all be done."""
    reuse: bool = True
    """Take results of earlier jobs where they are the same."""
    priority: int = DEFAULT_PRIORITY
    deadline_s: int | None = None
    """Seconds from now until the job is given up; None for never."""
    webhook_url: str | None = None
    formats: tuple[ExportFormat, ...] = ()
    """Other forms that the artifact is to have."""
    keep_dense: bool = False
    """Have tensors dense in a form that cannot express them."""


@dataclass(frozen=True)
class StoredModelRequest:
    """A request for a job of models that were uploaded before."""

    model_id: str
    sensitivities_id: str | None
    wishes: JobOptions
    config_sha256: str | None = None
    """Of its config as JSON; None if it has none."""


def wishes(form: Form) -> JobOptions:
    """Read the form's fields.

    Raises:
        InvalidUpload: names the field, what it holds and what it may.
    """
    return JobOptions(
        config=None if form.config is None else ConfigDocument(form.config),
        config_name=_text(form, "config_name"),
        preset=_text(form, "preset"),
        label=_label(form),
        strict=_flag(form, "strict", default=False),
        reuse=_flag(form, "reuse", default=True),
        priority=_number(form, "priority", PRIORITIES, DEFAULT_PRIORITY),
        deadline_s=_number(form, "deadline_s", DEADLINES_S, None),
        webhook_url=_text(form, "webhook_url"),
        formats=_formats(form),
        keep_dense=_flag(form, "keep_dense", default=False),
    )


def read_submission(body: Content) -> StoredModelRequest:
    """Read a JSON body but for its config, which is read with the model.

    Raises:
        BadInput: with every field at fault.
    """
    try:
        data = load_json(b"".join(pieces(body)))
    except ConfigError as error:
        raise BadInput("the body is not a JSON object that can be read", error.errors) from error
    config = data.pop("config", None)
    try:
        asked = JobSubmission.model_validate(data, strict=True)
    except ValidationError as error:
        faults = describe_errors(error, JobSubmission)
        raise BadInput("the request is not valid; `errors` names each field", faults) from error
    given = dict(asked)
    del given["model_id"], given["sensitivities_id"], given["config"]
    written = None if config is None else json.dumps(config).encode()
    digest = None if written is None else hashlib.sha256(written).hexdigest()
    return StoredModelRequest(asked.model_id, asked.sensitivities_id, JobOptions(**given), digest)


def _text(form: Form, name: str) -> str | None:
    text = form.texts.get(name)
    return None if text is None else text.decode(errors="replace")


def _label(form: Form) -> str | None:
    """The label; an empty field, as a page's form sends it, is none."""
    text = _text(form, "label")
    try:
        return check_label(text) if text else None
    except ValueError as error:
        raise InvalidUpload(f"the field 'label': {error}") from error


def _formats(form: Form) -> tuple[ExportFormat, ...]:
    names = (_text(form, "formats") or "").split(",")
    chosen = tuple(each for each in EXPORT_FORMATS if each in names)
    if form.texts.get("formats") and len(chosen) != len(set(names)):
        raise InvalidUpload(
            f"the field 'formats' is {_shown(form.texts['formats'])}; send names of "
            f"{', '.join(EXPORT_FORMATS)}, with commas between them"
        )
    return chosen


def _flag(form: Form, name: str, *, default: bool) -> bool:
    text = form.texts.get(name, str(default).lower().encode())
    if text not in (b"true", b"false"):
        raise InvalidUpload(f"the field {name!r} is {_shown(text)}; send true or false")
    return text == b"true"


def _number(form: Form, name: str, allowed: range, default: Default) -> int | Default:
    text = form.texts.get(name)
    if text is None:
        return default
    number = int(text) if re.fullmatch(rb"\d{1,9}", text) else -1
    if number not in allowed:
        raise InvalidUpload(
            f"the field {name!r} is {_shown(text)}; send a whole number from "
            f"{allowed[0]:,} to {allowed[-1]:,}"
        )
    return number


def _shown(text: bytes) -> str:
    return repr(text[:64].decode(errors="replace"))
