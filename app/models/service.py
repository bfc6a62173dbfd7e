"""Models: uploaded and parsed once, compressed any number of times."""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Sequence

from palettery.app.checkpoints.reader import bytes_to_parse
from palettery.app.errors import FileGone, NotFound, ObjectMissing
from palettery.app.files.removal import remove_unused_files
from palettery.app.files.repository import FileLocation, FileRepository
from palettery.app.http.pagination import decode_cursor, encode_cursor
from palettery.app.models.indexing import index_model, write_missing_contents
from palettery.app.models.repository import InTransaction, ModelRepository, NewModel
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
        repository: ModelRepository,
        files: FileRepository,
        store: Storage,
        documents: DocumentPool,
    ) -> None:
        self._limits, self._repository, self._files = limits, repository, files
        self._store, self._documents = store, documents

    def files(self, owner: str, model_id: str) -> Sequence[StoredFile]:
        """Return the files of a model for a job, and postpone the model's expiry.

        Raises:
            NotFound: the owner has no such model.
        """
        self._repository.touch(owner, model_id)
        return self._repository.files(owner, model_id)

    def inputs(self, owner: str, inputs_ids: Sequence[str]) -> tuple[StoredFile, ...]:
        """Return the files of inputs, which are uploaded like a model, and postpone their expiry.

        Raises:
            NotFound: the owner has no such upload.
        """
        return tuple(file for id_ in inputs_ids for file in self._inputs(owner, id_))

    def _inputs(self, owner: str, inputs_id: str) -> Sequence[StoredFile]:
        try:
            return self.files(owner, inputs_id)
        except NotFound as error:
            raise NotFound(
                f"there are no inputs {inputs_id[:64]!r}; upload their file as a model is "
                "uploaded, and send the id of the complete upload"
            ) from error

    async def get(self, client: DocumentClient, model_id: str) -> StoredModel:
        """Return one model of the client.

        Raises:
            NotFound: the owner has no such model.
        """
        owner = client.owner
        details = await asyncio.to_thread(self._repository.get, owner, model_id)
        path = contents_path(model_id)
        try:
            size_bytes = await asyncio.to_thread(self._store.size_bytes, path)
        except ObjectMissing:  # an older version has parsed it
            files = await asyncio.to_thread(self._repository.files, owner, model_id)
            parsed = await asyncio.to_thread(index_bytes, self._store, model_id, files)
            await self._documents.run(
                client,
                parsed,
                write_missing_contents,
                self._store.url,
                model_id,
                files,
                self._limits,
            )
            size_bytes = await asyncio.to_thread(self._store.size_bytes, path)
        return StoredModel(details, path, size_bytes)

    def page(self, owner: str, limit: int, cursor: str | None) -> ModelPage:
        """Return a page of an owner's models, newest first."""
        before = None if cursor is None else decode_cursor(cursor)
        rows = self._repository.page(owner, limit + 1, before)
        items = tuple(rows[:limit])
        next_cursor = encode_cursor(items[-1].created_at, items[-1].id) if rows[limit:] else None
        return ModelPage(items=items, next_cursor=next_cursor)

    def touch(self, owner: str, model_id: str) -> None:
        """Postpone the expiry of a model."""
        self._repository.touch(owner, model_id)

    async def add(
        self,
        owner: str,
        files: Sequence[StoredFile],
        locations: Sequence[FileLocation],
        in_transaction: InTransaction,
        label: str | None = None,
    ) -> ModelDetails:
        """Parse files that belong together and add them as a model.

        Without a label, an existing model keeps its own.

        Raises:
            InvalidModel, UnsupportedFormat, TooLarge: see `read_checkpoint`.
            FileGone: see `ModelRepository.add`.
            NotFound: `in_transaction` raised it.
        """
        sorted_files = sorted(files, key=lambda file: file.name)
        id_ = model_id((file.name, file.sha256 or "") for file in sorted_files)
        is_new = not await asyncio.to_thread(self._store.exists, index_path(id_))
        parsed = await asyncio.to_thread(bytes_to_parse, self._store, sorted_files)
        indexed = await self._documents.run(
            DocumentClient(owner),
            parsed,
            index_model,
            self._store.url,
            id_,
            sorted_files,
            self._limits,
        )
        new = NewModel(id_, indexed.name, indexed.format, indexed.tensors, sorted_files, label)
        try:
            return await asyncio.to_thread(
                self._repository.add, owner, new, locations, in_transaction
            )
        except (FileGone, NotFound):
            # Another request that parsed it before may still add it; expiry removes it if not.
            if is_new and not await asyncio.to_thread(self._repository.existing_ids, [id_]):
                paths = (index_path(id_), contents_path(id_))
                await asyncio.to_thread(self._store.delete, *paths)
            raise

    def delete(self, owner: str, model_id: str) -> None:
        """Delete a model, and its files unless something else uses them.

        Raises:
            NotFound: the owner has no such model.
        """
        self._repository.delete(owner, model_id)
        self.remove_unused([model_id])

    def remove_unused(self, ids: Sequence[str]) -> None:
        """Remove the index and contents of models that no owner has any more, and unused files."""
        existing = self._repository.existing_ids(ids)
        for id_ in ids:
            if id_ not in existing:
                self._store.delete_folder(index_folder(id_))
        remove_unused_files(self._files, self._store)


def model_id(files: Iterable[tuple[str, str]]) -> str:
    """Return the id of the model with these files, each a name and a SHA-256 in hex.

    The id is the SHA-256 of their list as JSON, in the order of the names, without spaces.
    """
    text = json.dumps(sorted(files), separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def bytes_sha256(files: Iterable[StoredFile]) -> str | None:
    """Return a SHA-256 of all files without their names; None if a digest is missing.

    The result is the SHA-256 of the list of their digests as JSON, in order, without spaces.
    """
    digests = sorted(file.sha256 or "" for file in files)
    if "" in digests:
        return None
    return hashlib.sha256(json.dumps(digests, separators=(",", ":")).encode()).hexdigest()
