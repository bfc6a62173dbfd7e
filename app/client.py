"""Talk to a server from Python; needs neither torch nor the server's code."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from pydantic import ValidationError

from app.errors import ERRORS, BadInput, PaletteryError, Unavailable
from schemas.jobs import ENDED, Job, JobPage
from schemas.plan import Plan
from schemas.problem import Problem
from schemas.report import Report

POLL_S = 0.2
"""Between two looks at a job."""


class Client:
    """A server's API as methods; every problem it answers with is raised as its error.

    Raises:
        Unavailable: the server cannot be reached.
    """

    def __init__(self, url: str) -> None:
        timeout = httpx.Timeout(10, read=600, write=600)
        self._http = httpx.Client(base_url=url, timeout=timeout)
        self._url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def ready(self) -> bool:
        """Whether the server answers and can take work."""
        try:
            return self._http.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def submit(
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
        return Job.model_validate(self._form("/v1/jobs", uploads, fields))

    def plan(
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
        return Plan.model_validate(self._form("/v1/plans", uploads, fields))

    def job(self, job_id: str) -> Job:
        """A job as it stands."""
        return Job.model_validate(self._json("GET", f"/v1/jobs/{job_id}"))

    def jobs(self) -> list[Job]:
        """Every job, newest first."""
        found: list[Job] = []
        cursor: str | None = ""
        while cursor is not None:
            query = {"limit": 100} | ({"cursor": cursor} if cursor else {})
            page = JobPage.model_validate(self._json("GET", "/v1/jobs", params=query))
            found += page.items
            cursor = page.next_cursor
        return found

    def cancel(self, job_id: str) -> Job:
        """Stop a queued or running job."""
        return Job.model_validate(self._json("POST", f"/v1/jobs/{job_id}/cancel"))

    def retry(self, job_id: str) -> Job:
        """Have a failed or cancelled job go on over what it had finished."""
        return Job.model_validate(self._json("POST", f"/v1/jobs/{job_id}/retry"))

    def delete(self, job_id: str) -> None:
        """Remove an ended job with its artifact."""
        self._json("DELETE", f"/v1/jobs/{job_id}")

    def watch(self, job_id: str) -> Iterator[Job]:
        """The job each time it is looked at, until it has ended."""
        while True:
            job = self.job(job_id)
            yield job
            if job.state in ENDED:
                return
            time.sleep(POLL_S)

    def report(self, job_id: str) -> Report:
        """What happened to every tensor of a finished job."""
        return Report.model_validate(self._json("GET", f"/v1/jobs/{job_id}/report"))

    def download(self, job_id: str, out: Path) -> None:
        """Fetch the artifact into `out`: a file, or a folder of shards and their index.

        Nothing appears at `out` until its digest was compared with the report's.
        """
        digests = self.report(job_id).artifact_sha256
        if len(digests) == 1:
            ((name, digest),) = digests.items()
            self._fetch(f"/v1/jobs/{job_id}/artifact/{name}", out, digest)
            return
        out.mkdir(parents=True, exist_ok=True)
        for name, digest in digests.items():
            self._fetch(f"/v1/jobs/{job_id}/artifact/{name}", out / name, digest)

    def _fetch(self, path: str, out: Path, expected: str) -> None:
        aside = out.with_name(f".{out.name}.part")
        digest = hashlib.sha256()
        try:
            with self._reached(), self._http.stream("GET", path) as response:
                if response.is_error:
                    response.read()
                    raise _error(response)
                with aside.open("wb") as file:
                    for chunk in response.iter_bytes(1 << 20):
                        digest.update(chunk)
                        file.write(chunk)
            if digest.hexdigest() != expected:
                raise PaletteryError(f"{out.name} arrived damaged: its SHA-256 differs; try again")
            aside.replace(out)
        except OSError as error:
            raise PaletteryError(f"cannot write {out}: {error.strerror}") from error
        finally:
            aside.unlink(missing_ok=True)

    def _form(
        self,
        path: str,
        uploads: Mapping[str, Sequence[Path]],
        fields: Mapping[str, str | None],
    ) -> object:
        with ExitStack() as opened:
            try:
                parts = [
                    (field, (file.name, opened.enter_context(file.open("rb"))))
                    for field, files in uploads.items()
                    for file in files
                ]
            except OSError as error:
                raise BadInput(f"cannot read {error.filename}: {error.strerror}") from error
            given = {name: value for name, value in fields.items() if value is not None}
            return self._json("POST", path, data=given, files=parts)

    def _json(self, method: str, path: str, **request: object) -> object:
        with self._reached():
            response = self._http.request(method, path, **request)  # type: ignore[arg-type]
        if response.is_error:
            raise _error(response)
        return response.json() if response.content else None

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise Unavailable(
                f"no answer from {self._url} ({error}); is `palettery serve` running there?"
            ) from error


def _error(response: httpx.Response) -> PaletteryError:
    """The error that a problem stands for."""
    try:
        told = Problem.model_validate_json(response.content)
    except ValidationError:
        return PaletteryError(f"the server answered {response.status_code}: {response.text[:200]}")
    return ERRORS.get(told.code, PaletteryError)(told.detail, told.errors)
