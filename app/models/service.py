"""Models: what was uploaded, read once, and can be compressed any number of times."""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Sequence

from palettery.app.checkpoints.reader import bytes_to_parse
from palettery.app.errors import FileGone, NotFound, ObjectMissing
from palettery.app.files.removal import remove_unused_files
from palettery.app.files.repository import FileLocation, FileRepository
from palettery.app.http.pagination import decode_cursor, encode_cursor
from palettery.app.models.indexing import make_contents, read_model
from palettery.app.models.repository import ModelRepository, NewModel, Settle
from palettery.app.models.response import StoredModel
from palettery.app.models.stored_contents import (
    contents_path,
    index_bytes,
    index_folder,
    index_path,
)
from palettery.app.sandbox.document_pool import DocumentClient, DocumentPool
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.models import ModelDetails, ModelPage


class ModelService:
    """Models of one service."""

    def __init__(
        self,
        limits: Limits,
        records: ModelRepository,
        files: FileRepository,
        store: Storage,
        documents: DocumentPool,
    ) -> None:
        self._limits, self._records, self._files = limits, records, files
        self._store, self._documents = store, documents

    def files(self, owner: str, model_id: str) -> Sequence[StoredFile]:
        """The files of a model where they are kept now, for a job; it is kept for longer then.

        Raises:
            NotFound: the owner has no such model.
        """
        self._records.touch(owner, model_id)
        return self._records.files(owner, model_id)

    async def get(self, client: DocumentClient, model_id: str) -> StoredModel:
        """One model of the client's, with its contents in the store.

        Raises:
            NotFound: the owner has no such model.
        """
        owner = client.owner
        details = await asyncio.to_thread(self._records.get, owner, model_id)
        path = contents_path(model_id)
        try:
            size_bytes = await asyncio.to_thread(self._store.size_bytes, path)
        except ObjectMissing:  # an older version has read it
            files = await asyncio.to_thread(self._records.files, owner, model_id)
            parsed = await asyncio.to_thread(index_bytes, self._store, model_id, files)
            await self._documents.run(
                client, parsed, make_contents, self._store.url, model_id, files, self._limits
            )
            size_bytes = await asyncio.to_thread(self._store.size_bytes, path)
        return StoredModel(details, path, size_bytes)

    def page(self, owner: str, limit: int, cursor: str | None) -> ModelPage:
        """An owner's models, newest first."""
        before = None if cursor is None else decode_cursor(cursor)
        found = self._records.page(owner, limit + 1, before)
        items = tuple(found[:limit])
        following = encode_cursor(items[-1].created_at, items[-1].id) if found[limit:] else None
        return ModelPage(items=items, next_cursor=following)

    def touch(self, owner: str, model_id: str) -> None:
        """Note that a model is used, so that it is kept for longer."""
        self._records.touch(owner, model_id)

    async def add(
        self,
        owner: str,
        files: Sequence[StoredFile],
        kept: Sequence[FileLocation],
        settle: Settle,
        label: str | None = None,
    ) -> ModelDetails:
        """Read files that belong together, and make them a model; without a label it keeps its own.

        Raises:
            InvalidModel, UnsupportedFormat, TooLarge: see `read_checkpoint`.
            FileGone: see `ModelRepository.add`.
            NotFound: `settle` says that it is not wanted any more.
        """
        in_order = sorted(files, key=lambda file: file.name)
        id_ = model_id((file.name, file.sha256 or "") for file in in_order)
        is_new = not await asyncio.to_thread(self._store.exists, index_path(id_))
        parsed = await asyncio.to_thread(bytes_to_parse, self._store, in_order)
        read = await self._documents.run(
            DocumentClient(owner), parsed, read_model, self._store.url, id_, in_order, self._limits
        )
        new = NewModel(id_, read.name, read.format, read.tensors, in_order, label)
        try:
            return await asyncio.to_thread(self._records.add, owner, new, kept, settle)
        except (FileGone, NotFound):
            # One who had read it before us may add it yet; then it is the sweep's.
            if is_new and not await asyncio.to_thread(self._records.known, [id_]):
                made = (index_path(id_), contents_path(id_))
                await asyncio.to_thread(self._store.delete, *made)
            raise

    def delete(self, owner: str, model_id: str) -> None:
        """Remove a model, and its files unless something else needs them.

        Raises:
            NotFound: the owner has no such model.
        """
        self._records.delete(owner, model_id)
        self.remove_unused([model_id])

    def remove_unused(self, ids: Sequence[str]) -> None:
        """Of models that an owner had: what nobody has any more."""
        known = self._records.known(ids)
        for gone in ids:
            if gone not in known:
                self._store.delete_folder(index_folder(gone))
        remove_unused_files(self._files, self._store)


def model_id(files: Iterable[tuple[str, str]]) -> str:
    """The id of the model with these files, each a name and a SHA-256 in hex.

    It is the SHA-256 of their list as JSON, in the order of the names, without spaces.
    """
    listed = json.dumps(sorted(files), separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(listed.encode()).hexdigest()


def bytes_sha256(files: Iterable[StoredFile]) -> str | None:
    """SHA-256 of what the files hold, whatever they are called; None if a digest is not known.

    It is the SHA-256 of the list of their digests as JSON, in order, without spaces.
    """
    digests = sorted(file.sha256 or "" for file in files)
    if "" in digests:
        return None
    return hashlib.sha256(json.dumps(digests, separators=(",", ":")).encode()).hexdigest()
