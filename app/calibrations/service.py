"""Operations on calibrations behind the endpoints."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session
from starlette.requests import Request
from uuid_utils.compat import uuid7

from palettery.app.calibration.calibrate import CALIBRATION_FILE, SECOND_MOMENTS, SENSITIVITIES
from palettery.app.calibration.store_folder import calibration_path
from palettery.app.calibrations.preparation import CalibrationSpec, PreparedCalibration, prepare
from palettery.app.calibrations.repository import CalibrationRepository, add_calibration
from palettery.app.checkpoints.reader import bytes_to_parse
from palettery.app.compression.job_folder import job_folder
from palettery.app.database.job_lookup import ID
from palettery.app.errors import Conflict, DatabaseFailed
from palettery.app.execution.engine import Engine
from palettery.app.files.repository import FileLocation
from palettery.app.http.caller import Caller
from palettery.app.http.downloads import StoredDownload
from palettery.app.http.idempotency import KeyedRequest, KeyTaken, keyed_request
from palettery.app.http.pagination import decode_key_cursor, encode_key_cursor
from palettery.app.http.request_body import read_json
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.lifecycle import JobLifecycle
from palettery.app.jobs.repository import JobRepository
from palettery.app.models.service import ModelService, bytes_sha256
from palettery.app.sandbox.document_pool import DocumentClient, DocumentPool
from palettery.app.settings import Settings
from palettery.app.storage.base import Storage
from palettery.app.version import VERSION
from palettery.schemas.calibration_jobs import CalibrationJob, CalibrationPage, NewCalibration
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.jobs import Progress

DOWNLOADS = {
    "sensitivities": SENSITIVITIES,
    "second_moments": SECOND_MOMENTS,
    "report": CALIBRATION_FILE,
}
"""Last part of a path -> file of a calibration."""


@dataclass(frozen=True)
class SubmittedCalibration:
    """The calibration of a request."""

    calibration: CalibrationJob
    is_replayed: bool = False
    """Whether it was queued before, for the same request under the same key."""


class CalibrationService:
    """Submits, looks up, changes and deletes calibrations, and returns their files."""

    def __init__(
        self,
        settings: Settings,
        calibrations: CalibrationRepository,
        jobs: JobRepository,
        models: ModelService,
        store: Storage,
        engine: Engine,
        lifecycle: JobLifecycle,
        documents: DocumentPool,
    ) -> None:
        self._settings, self._calibrations, self._jobs = settings, calibrations, jobs
        self._models, self._store, self._engine = models, store, engine
        self._lifecycle, self._documents = lifecycle, documents

    async def submit(
        self, request: Request, caller: Caller, key: str | None
    ) -> SubmittedCalibration:
        """Queue a calibration, or return the one of the same content.

        Raises:
            IdempotencyConflict: the key was sent with another request before.
            NotFound: there is no such model.
            OverQuota: the caller has too many jobs or bytes.
        """
        limit = self._settings.limits.config_bytes
        new = await read_json(request, self._documents, caller.owner, NewCalibration, limit)
        keyed = keyed_request(key, "calibration", new.model_dump(mode="json"))
        replayed = await asyncio.to_thread(self._replayed, caller, keyed)
        if replayed is not None:
            return replayed
        spec = await asyncio.to_thread(self._spec, caller.owner, new)
        sha256 = _request_sha256(spec)
        same = await asyncio.to_thread(
            self._calibrations.same, caller.owner, sha256, self._keep_until()
        )
        if same is None:
            same = str(uuid7())  # ordered by time, as lists of calibrations are
            client = DocumentClient(caller.owner, request)
            try:
                await self._queue(same, new, spec, sha256, caller, keyed, client)
            except KeyTaken:
                replayed = await asyncio.to_thread(self._replayed, caller, keyed)
                if replayed is not None:
                    return replayed
                raise Conflict("the calibration of this key was deleted; send it again") from None
        return SubmittedCalibration(
            await asyncio.to_thread(self._calibrations.get, caller.owner, same)
        )

    def get(self, owner: str, calibration_id: str) -> CalibrationJob:
        """Return a calibration."""
        return self._calibrations.get(owner, calibration_id)

    def page(self, owner: str, limit: int, cursor: str | None) -> CalibrationPage:
        """Return an owner's calibrations, newest first."""
        before = decode_key_cursor(cursor, ID)
        rows = self._calibrations.page(owner, limit + 1, before)
        items = tuple(rows[:limit])
        return CalibrationPage(
            items=items, next_cursor=encode_key_cursor(items[-1].id) if rows[limit:] else None
        )

    async def cancel(self, owner: str, calibration_id: str) -> CalibrationJob:
        """Cancel a calibration that has not ended."""
        await asyncio.to_thread(self.get, owner, calibration_id)
        await self._lifecycle.cancel(calibration_id)
        return await asyncio.to_thread(self.get, owner, calibration_id)

    async def retry(self, caller: Caller, calibration_id: str) -> CalibrationJob:
        """Queue a failed or cancelled calibration again; it goes on from its last saved batch."""
        await asyncio.to_thread(self.get, caller.owner, calibration_id)
        await self._lifecycle.retry(calibration_id, caller.limits)
        return await asyncio.to_thread(self.get, caller.owner, calibration_id)

    def delete(self, owner: str, calibration_id: str) -> None:
        """Delete an ended calibration and its files; jobs keep what they need of it."""
        self.get(owner, calibration_id)
        self._lifecycle.delete(calibration_id)

    def download(self, owner: str, calibration_id: str, which: str) -> StoredDownload:
        """Return a file of a calibration.

        Raises:
            Conflict: it has not succeeded.
        """
        calibration = self.get(owner, calibration_id)
        if calibration.result is None:
            raise Conflict(
                f"the calibration is {calibration.state}; its files are there once it has succeeded"
            )
        name, folder = DOWNLOADS[which], job_folder(calibration_id)
        sha256 = calibration.result.files_sha256[name]
        return StoredDownload(calibration_path(folder, name), sha256, name, folder)

    def _replayed(self, caller: Caller, keyed: KeyedRequest | None) -> SubmittedCalibration | None:
        """Return the calibration of the same request sent before; None if there is none.

        Raises:
            IdempotencyConflict: its key was sent with another request.
        """
        job = None if keyed is None else self._jobs.find_keyed(caller.owner, keyed)
        if job is None:
            return None
        return SubmittedCalibration(self.get(caller.owner, job.id), is_replayed=True)

    def _spec(self, owner: str, new: NewCalibration) -> CalibrationSpec:
        inputs = [file for id_ in new.inputs() for file in self._models.files(owner, id_)]
        model = tuple(self._models.files(owner, new.model_id))
        return CalibrationSpec(model, tuple(inputs), new.options())

    async def _queue(
        self,
        calibration_id: str,
        new: NewCalibration,
        spec: CalibrationSpec,
        request_sha256: str,
        caller: Caller,
        keyed: KeyedRequest | None,
        client: DocumentClient,
    ) -> None:
        """Store what the calibration needs, then its rows."""
        prefix, store = job_folder(calibration_id), self._store
        size = await asyncio.to_thread(bytes_to_parse, store, spec.files())
        limits = self._settings.limits
        try:
            prepared = await self._documents.run(
                client, size, prepare, spec, store.url, limits, prefix
            )
            job = self._new_job(calibration_id, new, spec, prepared, caller, keyed, request_sha256)

            def enqueue(session: Session, job_id: str, attempt: int, turn: int) -> None:
                add_calibration(session, job_id, new)
                self._engine.enqueue(session, job_id, attempt, turn)

            await asyncio.to_thread(self._jobs.add, job, _locations(spec.files()), enqueue)
        except (DatabaseFailed, asyncio.CancelledError):
            raise  # it may have been queued; if not, expiry removes its folder
        except BaseException:
            await asyncio.to_thread(store.delete_folder, prefix)
            raise

    def _new_job(
        self,
        calibration_id: str,
        new: NewCalibration,
        spec: CalibrationSpec,
        prepared: PreparedCalibration,
        caller: Caller,
        keyed: KeyedRequest | None,
        request_sha256: str,
    ) -> NewJob:
        return NewJob(
            id=calibration_id,
            kind="calibration",
            model_name=spec.model[0].name,
            size_before_bytes=prepared.model_bytes,
            progress=Progress(),
            stored_bytes=prepared.stored_bytes,
            owner=caller.owner,
            limits=caller.limits,
            request_sha256=request_sha256,
            model_id=new.model_id,
            model_sha256=bytes_sha256(spec.model),
            request=keyed,
        )

    def _keep_until(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=self._settings.retain_days)


def _request_sha256(spec: CalibrationSpec) -> str:
    """Return the digest of all that the result of a calibration depends on."""
    parts = (
        "calibration",
        sorted((file.name, file.sha256) for file in spec.model),
        [file.sha256 for file in spec.inputs],
        spec.options.model_dump(mode="json"),
        VERSION,
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _locations(files: Sequence[StoredFile]) -> list[FileLocation]:
    return [
        FileLocation(file.sha256 or "", file.path, file.size_bytes, has_row=True) for file in files
    ]
