"""Requests for jobs and plans: parsed first, then resolved to the models and configs they name."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request

from palettery.app.checkpoints.reader import bytes_to_parse
from palettery.app.configs.documents import ConfigDocument
from palettery.app.configs.selection import select_document
from palettery.app.configs.service import ConfigService
from palettery.app.errors import BadInput, InvalidUpload, UnsupportedMediaType
from palettery.app.http.caller import Caller
from palettery.app.http.multipart import FILE_FIELDS, Form, read_form
from palettery.app.http.request_body import media_type, read_body
from palettery.app.jobs.form_options import read_form_options
from palettery.app.jobs.json_submission import StoredModels, read_submission
from palettery.app.jobs.preparation import JobSpec, ModelSource
from palettery.app.models.service import ModelService
from palettery.app.models.stored_contents import index_bytes
from palettery.app.sandbox.document_pool import DocumentClient, DocumentPool
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.storage.spooled_content import Content, pieces
from palettery.schemas.job_options import JobOptions

JSON, FORM = "application/json", "multipart/form-data"
NOTHING_SET = ConfigDocument("{}", "json")
"""The config of a request with a target and without a config."""
ALWAYS_DIGESTED = {
    "config_name",
    "preset",
    "strict",
    "reuse",
    "priority",
    "deadline_s",
    "webhook_url",
    "formats",
    "keep_dense",
}
"""Options of the first version. Later ones are digested only if they are not at their default, so
that a request keeps its digest when options are added."""


@dataclass(frozen=True)
class ParsedRequest:
    """A request whose body is complete; the models and configs it names may not exist."""

    models: Form | StoredModels
    options: JobOptions
    config: ConfigDocument | None
    config_sha256: str | None

    def uploaded_paths(self) -> list[str]:
        """Return the paths in the store of the files uploaded with the request."""
        return self.models.paths() if isinstance(self.models, Form) else []

    def identity(self) -> Sequence[object]:
        """Return JSON values that are equal for equal requests, for the idempotency digest."""
        models: Sequence[object]
        if isinstance(self.models, Form):
            models = [
                (name, file.name, file.sha256)
                for name in FILE_FIELDS
                for file in self.models.files[name]
            ]
        else:
            models = (self.models.model_id, self.models.sensitivities_id)
        changed = self.options.model_dump(mode="json", exclude_defaults=True)
        always = self.options.model_dump(mode="json", include=ALWAYS_DIGESTED)
        return models, {"config": None} | changed | always, self.config_sha256


class RequestParser:
    """Parses requests and resolves what they name."""

    def __init__(
        self,
        limits: Limits,
        store: Storage,
        models: ModelService,
        configs: ConfigService,
        documents: DocumentPool,
    ) -> None:
        self._limits, self._store, self._models = limits, store, models
        self._configs, self._documents = configs, documents

    async def parse(self, request: Request, caller: Caller) -> ParsedRequest:
        """Read a body; files in it are in the store when this returns, or gone when it raises.

        Raises:
            UnsupportedMediaType: the body is neither a form nor JSON.
            BadInput: a field is missing, unknown or invalid.
            TooLarge: the body exceeds a limit.
        """
        kind = media_type(request)
        if kind == FORM:
            return await self._parse_form(request, caller)
        if kind == JSON:
            return await self._parse_json(request, caller)
        raise UnsupportedMediaType(
            f"the body is {kind[:100] or 'of no named type'}; send {FORM} with the model's files, "
            f"or {JSON} with a model_id"
        )

    async def resolve(self, parsed: ParsedRequest, caller: Caller) -> JobSpec:
        """Look up the models and the config that a request names.

        Raises:
            NotFound: the caller has no such model or config.
            BadInput: the fields do not go together.
        """
        options = parsed.options
        given = (parsed.config, options.preset, options.config_name)
        if options.target is not None and given == (None, None, None):
            given = (NOTHING_SET, None, None)
        config = select_document(*given, lambda name: ConfigDocument("", name=name))
        if options.config_name is not None:
            config = await self._configs.document(caller.owner, options.config_name)
        if options.choices is not None and options.target is None:
            raise BadInput(
                "`choices` are what a target may choose: send a target, or leave them out"
            )
        _check_quality(options)
        return await asyncio.to_thread(self._spec, parsed, caller, config)

    async def _parse_form(self, request: Request, caller: Caller) -> ParsedRequest:
        limits, upload_bytes = self._limits, caller.limits.upload_bytes
        if upload_bytes is not None:
            limits = limits.model_copy(update={"upload_bytes": upload_bytes})
        form = await read_form(request, self._store, limits)
        try:
            options = read_form_options(form.texts)
        except InvalidUpload:
            await asyncio.to_thread(self._store.delete, *form.paths())
            raise
        if form.config is None:
            return ParsedRequest(form, options, None, None)
        return ParsedRequest(form, options, ConfigDocument(form.config), _sha256(form.config))

    async def _parse_json(self, request: Request, caller: Caller) -> ParsedRequest:
        body = await read_body(request, self._limits.config_bytes)
        client = DocumentClient(caller.owner, request)
        parsed = await self._documents.run(client, len(body), read_submission, body)
        digest = parsed.config_sha256
        config = None if digest is None else ConfigDocument(body, "json", member="config")
        return ParsedRequest(parsed.models, parsed.options, config, digest)

    def _spec(self, parsed: ParsedRequest, caller: Caller, config: ConfigDocument) -> JobSpec:
        if isinstance(parsed.models, Form):
            sources = [ModelSource(tuple(files)) for files in parsed.models.files.values() if files]
        else:
            ids = [parsed.models.model_id, parsed.models.sensitivities_id]
            sources = [
                ModelSource(tuple(self._models.files(caller.owner, id_)), id_) for id_ in ids if id_
            ]
        model, sensitivities = sources[0], sources[1] if sources[1:] else None
        evaluate = parsed.options.evaluate
        inputs = None
        if evaluate is not None:
            inputs_ids = evaluate.inputs()
            files = self._models.inputs(caller.owner, inputs_ids)
            inputs = ModelSource(files, inputs_ids[0])
        size_bytes = len(config.text) + sum(map(self._index_bytes, sources))
        if parsed.options.calibration_id is not None:  # finds tensors by their values
            size_bytes += sum(file.size_bytes for file in model.files)
        return JobSpec(model, sensitivities, config, parsed.options, size_bytes, inputs)

    def _index_bytes(self, source: ModelSource) -> int:
        """Return the size of a model's stored index, or of what its files hold to be parsed."""
        if source.model_id is None:
            return bytes_to_parse(self._store, source.files)
        return index_bytes(self._store, source.model_id, source.files)


def _check_quality(options: JobOptions) -> None:
    """Check that a target of a quality has inputs, and is the only quality.

    Raises:
        BadInput: it has none, or the evaluation has a quality of its own.
    """
    if options.target is None or options.target.quality is None:
        return
    if options.evaluate is None:
        raise BadInput(
            "a target of a quality is measured on inputs: upload them, and send their id as "
            '`evaluate`: {"inputs_id": ...}'
        )
    if options.evaluate.at_least is not None:
        raise BadInput(
            "the target is a quality, and `evaluate` has another as `at_least`: send all that is "
            "required as the target"
        )


def _sha256(content: Content) -> str:
    digest = hashlib.sha256()
    for piece in pieces(content):
        digest.update(piece)
    return digest.hexdigest()
