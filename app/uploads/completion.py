"""Completion of uploads: parts become files, and files become a model.

Every step may be interrupted and repeated, also by two processes at once: files are joined at new
paths, one transaction adds the model, and only then the parts are deleted.
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
from palettery.app.storage.verified_reader import store_digests
from palettery.app.uploads.parts import Part, part_path, parts_folder, parts_of
from palettery.app.uploads.received_files import (
    check_sizes,
    file_locations,
    owned_files,
    received_parts,
)
from palettery.app.uploads.repository import UploadRepository, set_model
from palettery.app.uploads.stored_upload import StoredUpload
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.problem import InvalidField

CONCURRENT_JOINS = 2
"""Maximum number of uploads whose parts are joined at the same time; others wait in a queue."""
MAX_ATTEMPTS = 5
"""Maximum number of attempts to add a model while other requests delete files that it shares."""


class UploadCompletion:
    """Completes uploads; concurrent requests for one upload share a task."""

    def __init__(
        self,
        uploads: UploadRepository,
        models: ModelService,
        model_repository: ModelRepository,
        files: FileRepository,
        store: Storage,
    ) -> None:
        self._uploads, self._models, self._model_repository = uploads, models, model_repository
        self._files, self._store = files, store
        self._running: dict[str, asyncio.Task[str]] = {}
        self._join_turns = FairSemaphore(CONCURRENT_JOINS)

    async def complete(self, upload: StoredUpload) -> str:
        """Make an upload a model and return the model's id.

        Raises:
            PartsMissing: lists the missing parts.
            InvalidUpload: a file has another digest or size than announced.
            InvalidModel, UnsupportedFormat, TooLarge: see `read_checkpoint`; the parts stay.
            NotFound: the upload was deleted meanwhile.
        """
        task = self._running.get(upload.id)
        if task is None:
            task = asyncio.create_task(self._complete(upload))
            self._running[upload.id] = task
            task.add_done_callback(lambda done: self._on_done(upload.id, done))
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """Cancel all tasks; clients may request completion again."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_done(self, upload_id: str, task: "asyncio.Task[str]") -> None:
        del self._running[upload_id]
        if not task.cancelled():
            task.exception()  # retrieved here, as no request may be waiting any more

    async def _complete(self, upload: StoredUpload) -> str:
        new_paths: list[str] = []
        used_paths: Collection[str] = ()
        try:
            async with self._join_turns.turn(upload.owner):
                files = await self._join_files(upload, new_paths)
            model_id, used_paths = await self._add_model(upload, files, new_paths)
        except (DatabaseFailed, asyncio.CancelledError):
            used_paths = new_paths  # a model may use them; otherwise they are removed as orphans
            raise
        except (ObjectMissing, NotFound):
            current = await asyncio.to_thread(self._uploads.get, upload.owner, upload.id)
            if current.model_id is not None:
                return current.model_id  # completed by another process
            await asyncio.to_thread(self._check_parts, upload)
            raise
        finally:
            unused = [path for path in new_paths if path not in used_paths]
            await asyncio.to_thread(self._store.delete, *unused)
        await asyncio.to_thread(self._store.delete_folder, parts_folder(upload.id))
        return model_id

    async def _join_files(self, upload: StoredUpload, new_paths: list[str]) -> list[StoredFile]:
        """Join and verify the files; the paths of new ones are appended to `new_paths`."""
        owned = await asyncio.to_thread(self._owned_files, upload)
        check_sizes(upload.files, owned)
        parts_by_file: dict[int, list[Part]] = defaultdict(list)
        for part in parts_of(upload.files, upload.part_size_bytes):
            parts_by_file[part.file].append(part)
        needed = [n for n, file in enumerate(upload.files) if file.sha256 not in owned]
        received = await asyncio.to_thread(received_parts, self._uploads, self._store, upload)
        missing = [p for n in needed for p in parts_by_file[n] if p.number not in received]
        if missing:
            raise _missing_error(upload, missing)
        files = []
        for number, file in enumerate(upload.files):
            if number in needed:
                path = f"{UPLOADS}/{uuid.uuid4().hex}"
                new_paths.append(path)
                await self._join_file(upload, parts_by_file[number], path)
            else:
                path = owned[file.sha256].path
            files.append(StoredFile(path=path, **dict(file)))
        return files

    async def _join_file(self, upload: StoredUpload, parts: Sequence[Part], path: str) -> None:
        """Join the parts of one file."""
        file = upload.files[parts[0].file]
        if len(parts) == 1 and not self._store.supports_presigned_urls:
            # Its digest was checked when it was received, and no one else can have changed it.
            await asyncio.to_thread(self._store.copy, part_path(upload.id, parts[0].number), path)
            return
        paths = [part_path(upload.id, part.number) for part in parts]
        digest = await self._store.join(paths, path)
        sha256 = digest.hexdigest()
        if sha256 != file.sha256:
            await asyncio.to_thread(self._discard, upload, parts)
            raise InvalidUpload(
                f"{file.name} has the SHA-256 {sha256}, and {file.sha256} was announced; its "
                f"parts, {parts[0].number:,} to {parts[-1].number:,}, were removed: send them again"
            )
        await asyncio.to_thread(store_digests, self._store, digest)

    async def _add_model(
        self, upload: StoredUpload, files: Sequence[StoredFile], new_paths: Collection[str]
    ) -> tuple[str, Collection[str]]:
        """Parse the files and add them as a model; return its id and the paths of its files."""
        for _ in range(MAX_ATTEMPTS - 1):
            with suppress(FileGone):  # a file that was stored before was deleted meanwhile
                return await self._try_add_model(upload, files, new_paths)
        return await self._try_add_model(upload, files, new_paths)

    async def _try_add_model(
        self, upload: StoredUpload, files: Sequence[StoredFile], new_paths: Collection[str]
    ) -> tuple[str, Collection[str]]:
        locations = await asyncio.to_thread(
            file_locations, self._files, self._store, files, new_paths
        )
        stored = [
            file.model_copy(update={"path": locations[file.sha256 or ""].path}) for file in files
        ]
        id_ = model_id((file.name, file.sha256 or "") for file in files)
        await self._models.add(
            upload.owner,
            stored,
            list(locations.values()),
            lambda rows: set_model(rows, upload.id, id_),
            upload.label,
        )
        return id_, {file.path for file in stored}

    def _owned_files(self, upload: StoredUpload) -> Mapping[str, FileLocation]:
        digests = [file.sha256 for file in upload.files]
        return owned_files(self._model_repository, self._store, upload.owner, digests)

    def _discard(self, upload: StoredUpload, parts: Sequence[Part]) -> None:
        """Delete parts, so that they must be sent again."""
        self._uploads.delete_parts(upload.id, [part.number for part in parts])
        self._store.delete(*(part_path(upload.id, part.number) for part in parts))

    def _check_parts(self, upload: StoredUpload) -> None:
        """Check that the received parts are in the store; delete the rows of those that are not."""
        received = self._uploads.part_digests(upload.id)
        lost = [
            part
            for part in parts_of(upload.files, upload.part_size_bytes)
            if part.number in received and not self._store.exists(part_path(upload.id, part.number))
        ]
        if lost:
            self._discard(upload, lost)
            raise _missing_error(upload, lost)


def _missing_error(upload: StoredUpload, parts: Sequence[Part]) -> PartsMissing:
    errors = [
        InvalidField(
            pointer=f"/parts/{part.number}",
            detail=f"bytes {part.offset:,} to {part.offset + part.size_bytes - 1:,} of "
            f"{upload.files[part.file].name} have not come in; PUT "
            f"/v1/uploads/{upload.id}/parts/{part.number}",
        )
        for part in parts
    ]
    return PartsMissing.about(
        f"{len(parts):,} {'part has' if len(parts) == 1 else 'parts have'} not come in; `errors` "
        "names them: send them, then complete the upload",
        errors,
    )
