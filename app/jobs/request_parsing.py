"""Requests for jobs and plans: taken in, and everything found that they name."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from starlette.requests import Request

from palettery.app.checkpoints.read import bytes_to_parse
from palettery.app.configs.documents import ConfigDocument
from palettery.app.configs.selection import select_document
from palettery.app.configs.service import ConfigService
from palettery.app.errors import UnsupportedMediaType
from palettery.app.http.caller import Caller
from palettery.app.http.multipart import FILE_FIELDS, Form, read_form
from palettery.app.http.request_body import media_type, read_body
from palettery.app.jobs.options import JobOptions, StoredModelRequest, read_submission, wishes
from palettery.app.jobs.preparation import JobSpec, ModelSource
from palettery.app.models.service import ModelService
from palettery.app.models.stored_contents import index_bytes
from palettery.app.sandbox.document_pool import DocumentClient, DocumentPool
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.storage.spooled_content import pieces

JSON, FORM = "application/json", "multipart/form-data"


@dataclass(frozen=True)
class ParsedRequest:
    """A request whose body is in; what it names may not be there."""

    asked: Form | StoredModelRequest

    def wishes(self) -> JobOptions:
        """How the job is to be run.

        Raises:
            InvalidUpload: names the field, what it holds and what it may.
        """
        return wishes(self.asked) if isinstance(self.asked, Form) else self.asked.wishes

    def brought(self) -> list[str]:
        """Where the files lie that came with it."""
        return self.asked.paths() if isinstance(self.asked, Form) else []

    def content(self) -> Sequence[object]:
        """All that it says, by which it is told from others."""
        if isinstance(self.asked, Form):
            models: Sequence[object] = [
                (name, file.name, file.sha256)
                for name in FILE_FIELDS
                for file in self.asked.files[name]
            ]
        else:
            models = (self.asked.model_id, self.asked.sensitivities_id)
        wished = self.wishes()
        fields = asdict(replace(wished, config=None))
        if wished.label is None:  # requests of before there were labels are told apart as then
            del fields["label"]
        if isinstance(self.asked, Form):
            digest = wished.config and _sha256(wished.config)
        else:
            digest = self.asked.config_sha256
        return models, fields, digest


def _sha256(document: ConfigDocument) -> str:
    text = document.text.encode() if isinstance(document.text, str) else document.text
    digest = hashlib.sha256()
    for piece in pieces(text):
        digest.update(piece)
    return digest.hexdigest()


class RequestParser:
    """Takes requests in."""

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

    async def receive(self, request: Request, caller: Caller) -> ParsedRequest:
        """Take in a body; files in it are in the store then.

        Raises:
            UnsupportedMediaType: it is neither a form nor JSON.
            BadInput: it is not as it must be.
            TooLarge: it is over a limit.
        """
        kind = media_type(request)
        if kind == FORM:
            most = caller.limits.upload_bytes
            limits = (
                self._limits
                if most is None
                else self._limits.model_copy(update={"upload_bytes": most})
            )
            return ParsedRequest(await read_form(request, self._store, limits))
        if kind == JSON:
            body = await read_body(request, self._limits.config_bytes)
            client = DocumentClient(caller.owner, request)
            named = await self._documents.run(client, len(body), read_submission, body)
            if named.config_sha256 is None:
                return ParsedRequest(named)
            config = ConfigDocument(body, "json", member="config")
            return ParsedRequest(replace(named, wishes=replace(named.wishes, config=config)))
        raise UnsupportedMediaType(
            f"the body is {kind[:100] or 'of no named type'}; send {FORM} with the model's files, "
            f"or {JSON} with a model_id"
        )

    async def order(self, received: ParsedRequest, caller: Caller) -> JobSpec:
        """Find what a request names.

        Raises:
            NotFound: the caller has no such model or config.
            BadInput: the fields do not go together.
        """
        wished = received.wishes()
        config = select_document(
            wished.config,
            wished.preset,
            wished.config_name,
            lambda name: ConfigDocument("", name=name),
        )
        if wished.config_name is not None:
            config = await self._configs.document(caller.owner, wished.config_name)
        return await asyncio.to_thread(self._order, received, caller, config)

    def _order(self, received: ParsedRequest, caller: Caller, config: ConfigDocument) -> JobSpec:
        asked, wished = received.asked, received.wishes()
        if isinstance(asked, Form):
            found = [ModelSource(tuple(files)) for files in asked.files.values() if files]
        else:
            named = [id_ for id_ in (asked.model_id, asked.sensitivities_id) if id_]
            found = [
                ModelSource(tuple(self._models.files(caller.owner, id_)), id_) for id_ in named
            ]
        model, beside = found[0], found[1] if found[1:] else None
        size_bytes = len(config.text) + sum(map(self._index_bytes, found))
        return JobSpec(
            model, beside, config, wished.strict, wished.formats, wished.keep_dense, size_bytes
        )

    def _index_bytes(self, source: ModelSource) -> int:
        """Of what was read of a model before, or is to be read of its files now."""
        if source.model_id is None:
            return bytes_to_parse(self._store, source.files)
        return index_bytes(self._store, source.model_id, source.files)
