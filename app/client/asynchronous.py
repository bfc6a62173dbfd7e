"""The client for asynchronous code; every method is told once, here."""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import httpx

from app.client.connection import Connection, parsed
from app.client.downloads import Advance, Download, places
from app.client.retries import ATTEMPTS, Transient
from app.errors import BadInput, Conflict, PaletteryError
from app.progress import progress
from schemas.jobs import ENDED, Job, JobPage
from schemas.plan import Plan
from schemas.report import Report

LOCAL_SERVER = "http://127.0.0.1:8400"
POLL_S = 0.2
"""Between two looks at a job."""


class AsyncClient:
    """A server's API as methods; every problem it answers with is raised as its error.

    `key` is PALETTERY_KEY if it is not given. What fails by a lost connection, or since the server
    is busy, is tried `attempts` times.
    """

    def __init__(
        self, url: str | None = None, *, key: str | None = None, attempts: int = ATTEMPTS
    ) -> None:
        self._connection = Connection(
            url or os.environ.get("PALETTERY_SERVER", LOCAL_SERVER),
            key or os.environ.get("PALETTERY_KEY"),
            attempts,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._connection.http.aclose()

    async def ready(self) -> bool:
        """Whether the server answers and can take work."""
        try:
            await self._connection.once("GET", "/readyz")
        except (Transient, PaletteryError):
            return False
        return True

    async def job(self, job_id: str) -> Job:
        """A job as it stands."""
        return await self._connection.get(Job, f"/v1/jobs/{job_id}")

    async def jobs(self) -> AsyncIterator[Job]:
        """Every job, newest first; a page is fetched when it is needed."""
        cursor: str | None = None
        while True:
            page = await self._connection.get(JobPage, "/v1/jobs", limit=100, cursor=cursor)
            for job in page.items:
                yield job
            cursor = page.next_cursor
            if cursor is None:
                return

    async def cancel(self, job_id: str) -> Job:
        """Stop a queued or running job; one that is cancelled already is fine.

        Raises:
            Conflict: it has ended otherwise.
        """
        try:
            return await self._connection.post(Job, f"/v1/jobs/{job_id}/cancel")
        except Conflict:
            job = await self.job(job_id)
            if job.state != "cancelled":
                raise
            return job

    async def retry(self, job_id: str) -> Job:
        """Have a failed or cancelled job go on over what it had finished."""
        return await self._connection.post(Job, f"/v1/jobs/{job_id}/retry", is_repeatable=False)

    async def delete(self, job_id: str) -> None:
        """Remove an ended job with its artifact."""
        await self._connection.delete(f"/v1/jobs/{job_id}")

    async def wait(self, job_id: str) -> Job:
        """The job once it has ended, however it did; a terminal or a notebook shows a bar."""
        with progress("queued") as advance:
            while True:
                job = await self.job(job_id)
                advance(job.progress.bytes_done, job.progress.bytes_total)
                if job.state in ENDED:
                    return job
                await anyio.sleep(POLL_S)

    async def report(self, job_id: str) -> Report:
        """What happened to every tensor of a finished job."""
        return await self._connection.get(Report, f"/v1/jobs/{job_id}/report")

    async def download(
        self, job_id: str, out: Path | str, *, advance: Advance = lambda *_: None
    ) -> tuple[Path, ...]:
        """Fetch the artifact into `out`: a file, or a folder of shards and their index.

        A file appears when it is whole and its digest is the report's; what has come in when the
        connection or this process dies is not fetched again.
        """
        digests = (await self.report(job_id)).artifact_sha256
        files = places(digests, Path(out))
        for name, file in files.items():
            path = f"/v1/jobs/{job_id}/artifact/{name}"
            await Download(self._connection, path, file, digests[name]).run(advance)
        return tuple(files.values())

    async def submit(
        self,
        files: Sequence[Path],
        *,
        config: str | None = None,
        preset: str | None = None,
        sensitivities: Sequence[Path] = (),
        strict: bool = False,
        priority: int | None = None,
        deadline_s: int | None = None,
        reuse: bool = True,
    ) -> Job:
        """Upload a model's files with a config or a preset; the job is queued.

        Of the jobs that wait, those of the highest priority (0 to 9) go first. A job that has not
        ended after `deadline_s` is given up. Without `reuse` everything is computed anew.
        """
        fields = {
            "config": config,
            "preset": preset,
            "strict": "true" if strict else None,
            "priority": None if priority is None else str(priority),
            "deadline_s": None if deadline_s is None else str(deadline_s),
            "reuse": None if reuse else "false",
        }
        uploads = {"model": files, "sensitivities": sensitivities}
        return parsed(Job, await self._form("/v1/jobs", uploads, fields))

    async def plan(
        self,
        files: Sequence[Path],
        *,
        config: str | None = None,
        preset: str | None = None,
        sensitivities: Sequence[Path] = (),
        strict: bool = False,
    ) -> Plan:
        """What a job would do; nothing runs."""
        fields = {"config": config, "preset": preset, "strict": "true" if strict else None}
        uploads = {"model": files, "sensitivities": sensitivities}
        return parsed(Plan, await self._form("/v1/plans", uploads, fields))

    async def _form(
        self,
        path: str,
        uploads: Mapping[str, Sequence[Path]],
        fields: Mapping[str, str | None],
    ) -> httpx.Response:
        with ExitStack() as opened:
            try:
                parts: Any = [
                    (field, (file.name, opened.enter_context(file.open("rb"))))
                    for field, files in uploads.items()
                    for file in files
                ]
            except OSError as error:
                raise BadInput(f"cannot read {error.filename}: {error.strerror}") from error
            given = {name: value for name, value in fields.items() if value is not None}
            return await self._connection.call(
                "POST", path, is_repeatable=False, data=given, files=parts
            )
