"""From the parts of an upload to a model.

Every step may be cut off and done again, also by two processes at once: files are joined under
paths of their own, one transaction makes them a model, and only then the parts go.
"""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from palettery.app.errors import (
    DatabaseFailed,
    FileGone,
    InvalidUpload,
    NotFound,
    ObjectMissing,
    PartsMissing,
)
from palettery.app.files.repository import FileLocation, FileRepository
from palettery.app.http.multipart import UPLOADS
from palettery.app.models.repository import ModelRepository
from palettery.app.models.service import ModelService, model_id
from palettery.app.sandbox.fair_semaphore import FairSemaphore
from palettery.app.storage.base import Storage
from palettery.app.storage.checked_reads import store_digests
from palettery.app.uploads.parts import Part, part_path, parts_folder, parts_of
from palettery.app.uploads.received_files import check_sizes, kept_once, owned_files, received_parts
from palettery.app.uploads.repository import UploadRepository, UploadSession, settle
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.problem import InvalidField

AT_ONCE = 2
"""Uploads whose parts are joined at once; the others wait without holding a thread."""
TRIES = 5
"""At adding a model whose bytes we had already, while others remove them."""


class UploadCompletion:
    """Completes uploads; who asks again while one is at work waits for that."""

    def __init__(
        self,
        sessions: UploadRepository,
        models: ModelService,
        model_records: ModelRepository,
        files: FileRepository,
        store: Storage,
    ) -> None:
        self._sessions, self._models, self._model_records = sessions, models, model_records
        self._files, self._store = files, store
        self._running: dict[str, asyncio.Task[str]] = {}
        self._joining = FairSemaphore(AT_ONCE)

    async def of(self, session: UploadSession) -> str:
        """The id of the model that an upload becomes.

        Raises:
            PartsMissing: names the parts that have not come in.
            InvalidUpload: a file is not what was announced; its parts must be sent again, or its
                size announced as it is.
            InvalidModel, UnsupportedFormat, TooLarge: see `read_checkpoint`; the parts are kept.
            NotFound: the upload was removed meanwhile.
        """
        task = self._running.get(session.id)
        if task is None:
            task = asyncio.create_task(self._complete(session))
            self._running[session.id] = task
            task.add_done_callback(lambda done: self._ended(session.id, done))
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """Cut off what is at work; it is done again when somebody asks."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, upload_id: str, task: "asyncio.Task[str]") -> None:
        del self._running[upload_id]
        if not task.cancelled():
            task.exception()  # which nobody may be waiting for any more

    async def _complete(self, session: UploadSession) -> str:
        brought: list[str] = []
        kept: Collection[str] = ()
        try:
            async with self._joining.turn(session.owner):
                files = await self._joined(session, brought)
            model_id, kept = await self._publish(session, files, brought)
        except (DatabaseFailed, asyncio.CancelledError):
            kept = brought  # it may be a model by now; if not, the sweep finds them
            raise
        except (ObjectMissing, NotFound):
            now = await asyncio.to_thread(self._sessions.get, session.owner, session.id)
            if now.model_id is not None:
                return now.model_id  # completed by another process
            await asyncio.to_thread(self._check_parts, session)
            raise
        finally:
            unused = [path for path in brought if path not in kept]
            await asyncio.to_thread(self._store.delete, *unused)
        await asyncio.to_thread(self._store.delete_folder, parts_folder(session.id))
        return model_id

    async def _joined(self, session: UploadSession, brought: list[str]) -> list[StoredFile]:
        """The files, whole and right; `brought` gets the paths of those that we made."""
        owned = await asyncio.to_thread(self._owned, session)
        check_sizes(session.files, owned)
        of_file: dict[int, list[Part]] = defaultdict(list)
        for part in parts_of(session.files, session.part_size_bytes):
            of_file[part.file].append(part)
        needed = [n for n, file in enumerate(session.files) if file.sha256 not in owned]
        received = await asyncio.to_thread(received_parts, self._sessions, self._store, session)
        missing = [p for n in needed for p in of_file[n] if p.number not in received]
        if missing:
            raise _missing(session, missing)
        files = []
        for number, file in enumerate(session.files):
            if number in needed:
                path = f"{UPLOADS}/{uuid.uuid4().hex}"
                brought.append(path)
                await self._join(session, of_file[number], path)
            else:
                path = owned[file.sha256].path
            files.append(StoredFile(path=path, **dict(file)))
        return files

    async def _join(self, session: UploadSession, parts: Sequence[Part], path: str) -> None:
        """Make one file of its parts."""
        file = session.files[parts[0].file]
        if len(parts) == 1 and not self._store.supports_presigned_urls:
            # Its digest was the file's when it came in, and nobody else has touched it since.
            await asyncio.to_thread(self._store.copy, part_path(session.id, parts[0].number), path)
            return
        paths = [part_path(session.id, part.number) for part in parts]
        digest = await self._store.join(paths, path)
        sha256 = digest.hexdigest()
        if sha256 != file.sha256:
            await asyncio.to_thread(self._drop, session, parts)
            raise InvalidUpload(
                f"{file.name} has the SHA-256 {sha256}, and {file.sha256} was announced; its "
                f"parts, {parts[0].number:,} to {parts[-1].number:,}, were removed: send them again"
            )
        await asyncio.to_thread(store_digests, self._store, digest)

    async def _publish(
        self, session: UploadSession, files: Sequence[StoredFile], brought: Collection[str]
    ) -> tuple[str, Collection[str]]:
        """Read the files and make them a model; its id, and where its files are kept."""
        for _ in range(TRIES - 1):
            with suppress(FileGone):  # bytes that we had already were removed meanwhile
                return await self._add(session, files, brought)
        return await self._add(session, files, brought)

    async def _add(
        self, session: UploadSession, files: Sequence[StoredFile], brought: Collection[str]
    ) -> tuple[str, Collection[str]]:
        kept = await asyncio.to_thread(kept_once, self._files, self._store, files, brought)
        at = [file.model_copy(update={"path": kept[file.sha256 or ""].path}) for file in files]
        id_ = model_id((file.name, file.sha256 or "") for file in files)
        await self._models.add(
            session.owner,
            at,
            list(kept.values()),
            lambda rows: settle(rows, session.id, id_),
            session.label,
        )
        return id_, {file.path for file in at}

    def _owned(self, session: UploadSession) -> Mapping[str, FileLocation]:
        digests = [file.sha256 for file in session.files]
        return owned_files(self._model_records, self._store, session.owner, digests)

    def _drop(self, session: UploadSession, parts: Sequence[Part]) -> None:
        """Have parts sent again."""
        self._sessions.drop(session.id, [part.number for part in parts])
        self._store.delete(*(part_path(session.id, part.number) for part in parts))

    def _check_parts(self, session: UploadSession) -> None:
        """Have those parts sent again that somebody removed behind our back."""
        received = self._sessions.received(session.id)
        lost = [
            part
            for part in parts_of(session.files, session.part_size_bytes)
            if part.number in received
            and not self._store.exists(part_path(session.id, part.number))
        ]
        if lost:
            self._drop(session, lost)
            raise _missing(session, lost)


def _missing(session: UploadSession, parts: Sequence[Part]) -> PartsMissing:
    errors = [
        InvalidField(
            pointer=f"/parts/{part.number}",
            detail=f"bytes {part.offset:,} to {part.offset + part.size_bytes - 1:,} of "
            f"{session.files[part.file].name} have not come in; PUT "
            f"/v1/uploads/{session.id}/parts/{part.number}",
        )
        for part in parts
    ]
    return PartsMissing.about(
        f"{len(parts):,} {'part has' if len(parts) == 1 else 'parts have'} not come in; `errors` "
        "names them: send them, then complete the upload",
        errors,
    )
