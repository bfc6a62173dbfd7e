"""The client for asynchronous code; every method is told once, here."""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, cast
from uuid import uuid4

from palettery.app.client.connection import Connection, parsed
from palettery.app.client.downloads import Download, download
from palettery.app.client.events import JobEvent, events, log_lines, watch
from palettery.app.client.job_arguments import PlanArguments, SubmitArguments, takes
from palettery.app.client.progress import progress
from palettery.app.client.requests import (
    Config,
    Paths,
    Source,
    config_path,
    document_request,
    model_id_of,
    paths_of,
)
from palettery.app.client.retries import ATTEMPTS, Transient
from palettery.app.client.uploads import Advance, FilesUpload
from palettery.app.errors import Conflict, NotFound, PaletteryError
from palettery.app.storage.output_files import check_writable
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.configs import ConfigPage, ConfigSummary, NamedConfig, ValidatedConfig
from palettery.schemas.events import GoneJob, LogLine
from palettery.schemas.exports import ExportFormat
from palettery.schemas.jobs import Job, JobPage, JobState, Progress
from palettery.schemas.keys import CreatedKey, Key, KeyPage, Me, NewKey
from palettery.schemas.models import Model, ModelPage, ModelSummary
from palettery.schemas.plan import Plan
from palettery.schemas.report import Report
from palettery.schemas.service import Service
from palettery.schemas.statistics import TensorStatistics
from palettery.schemas.webhooks import WebhookSecret

LOCAL_SERVER = "http://127.0.0.1:8400"


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
        await self._connection.close()

    async def ready(self) -> bool:
        """Whether the server answers and can take work."""
        try:
            await self._connection.once("GET", "/readyz")
        except (Transient, PaletteryError):
            return False
        return True

    async def me(self) -> Me:
        """Whose key this is, and what that may have and has."""
        return await self._connection.get(Me, "/v1/me")

    async def service(self) -> Service:
        """What runs on the server, what waits there, and what there is room for."""
        return await self._connection.get(Service, "/v1/service")

    async def upload(
        self,
        paths: Paths,
        *,
        label: str | None = None,
        part_size_bytes: int | None = None,
        direct: bool = False,
        advance: Advance = lambda *_: None,
    ) -> Model:
        """Send the files of one model; what the server has of them already is not sent again.

        `label` is what to call the model; the same files sent again change it.

        Interrupted, it goes on when it is called again, here or in another process. With `direct`
        the bytes go to the server's object store, past the server, if it has one that can be
        reached from here. `advance` is called with ("reading" or "sending", bytes done, bytes in
        all).

        Raises:
            BadInput: a file cannot be read.
            InvalidUpload: a file changed while it was sent.
        """
        chosen = {"part_size_bytes": part_size_bytes, "label": label}
        files = FilesUpload(self._connection, paths_of(paths), chosen, direct=direct)
        return await files.run(advance)

    async def models(self) -> AsyncIterator[ModelSummary]:
        """Every model, newest first."""
        async for page in self._connection.pages(ModelPage, "/v1/models"):
            for model in page.items:
                yield model

    async def model(self, model_id: str) -> Model:
        """A model with its modules and tensors."""
        return await self._connection.get(Model, f"/v1/models/{model_id}")

    async def delete_model(self, model_id: str) -> None:
        """Remove a model; jobs made of it keep what they need."""
        await self._connection.delete(f"/v1/models/{model_id}")

    @takes(PlanArguments)
    async def plan(self, model: Source, arguments: PlanArguments) -> Plan:
        """Return what a job would do; nothing runs. Files are uploaded first, as by `upload`."""
        body = await self._job_request(model, arguments)
        return await self._connection.post(Plan, "/v1/plans", json=body)

    @takes(SubmitArguments)
    async def submit(self, model: Source, arguments: SubmitArguments) -> Job:
        """Queue a job for a model with a config, the name of one, or a preset.

        The keyword arguments are the fields of `JobOptions`, and those of `SubmitArguments`. Files
        are uploaded first, as by `upload`. A request that is sent again after a lost connection
        makes one job; with an idempotency key of your own this holds for repeated calls, too.
        """
        body = await self._job_request(model, arguments)
        headers = {"Idempotency-Key": arguments.idempotency_key or str(uuid4())}
        return await self._connection.post(Job, "/v1/jobs", json=body, headers=headers)

    async def put_config(self, name: str, config: Config) -> NamedConfig:
        """Keep a config under a name, as its next version unless the newest says the same.

        Raises:
            InvalidConfig: names every field at fault.
        """
        document = document_request(config)
        return parsed(
            NamedConfig, await self._connection.call("PUT", config_path(name), **document)
        )

    async def configs(self) -> AsyncIterator[ConfigSummary]:
        """The newest version of every config, in the order of their names."""
        async for page in self._connection.pages(ConfigPage, "/v1/configs"):
            for config in page.items:
                yield config

    async def config(self, reference: str) -> NamedConfig:
        """The version that `name@version` names, or the newest that `name` does."""
        return await self._connection.get(NamedConfig, config_path(reference))

    async def delete_config(self, name: str) -> None:
        """Remove a name with all its versions; jobs keep their config."""
        await self._connection.delete(config_path(name))

    async def validate(self, config: Config) -> ValidatedConfig:
        """Every fault of a config at once, or the config in full; nothing is stored."""
        document = document_request(config)
        return await self._connection.post(ValidatedConfig, "/v1/configs/validate", **document)

    async def job(self, job_id: str) -> Job:
        """A job as it stands."""
        return await self._connection.get(Job, f"/v1/jobs/{job_id}")

    async def jobs(
        self, *, state: JobState | Sequence[JobState] = (), model_id: str | None = None
    ) -> AsyncIterator[Job]:
        """Every job, newest first; only those in a state, or made of a model, if one is named."""
        states = [state] if isinstance(state, str) else list(state)
        asked = {"state": states or None, "model_id": model_id}
        async for page in self._connection.pages(JobPage, "/v1/jobs", **asked):
            for job in page.items:
                yield job

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

    def events(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        """What happens to a job, as it happens, until it has ended; reconnects by itself.

        It begins behind event number `after`, so 0 tells all from the beginning.
        """
        return events(self._connection, job_id, after)

    def watch(self) -> AsyncIterator[Job | GoneJob]:
        """Every job that there is, then every change of one as it happens; reconnects by itself.

        It never ends. What was missed while there was no connection is told with the next one.
        """
        return watch(self._connection, self.jobs)

    async def wait(self, job_id: str) -> Job:
        """The job once it has ended, however it did; a terminal or a notebook shows a bar."""
        with progress("working") as advance:
            async for event in self.events(job_id):
                done = event.data.progress if isinstance(event.data, Job) else event.data
                if isinstance(done, Progress):
                    advance(done.bytes_done, done.bytes_total)
        return await self.job(job_id)

    def log(self, job_id: str, *, after: int = 0) -> AsyncIterator[LogLine]:
        """The lines of a job's log so far, oldest first."""
        return log_lines(self._connection, job_id, after)

    async def job_config(self, job_id: str) -> KMeansPalettizerConfig:
        """The config that a job was given, every default filled in."""
        return await self._connection.get(KMeansPalettizerConfig, f"/v1/jobs/{job_id}/config")

    async def report(self, job_id: str) -> Report:
        """What happened to every tensor of a finished job."""
        return await self._connection.get(Report, f"/v1/jobs/{job_id}/report")

    async def report_page(self, job_id: str) -> bytes:
        """The same as a page of HTML that needs nothing else."""
        return (await self._connection.call("GET", f"/v1/jobs/{job_id}/report.html")).content

    async def statistics(self, job_id: str, tensor: str) -> TensorStatistics:
        """What palettizing did inside a tensor: its weights, its palette, its error by group."""
        path = f"/v1/jobs/{job_id}/statistics"
        return await self._connection.get(TensorStatistics, path, tensor=tensor)

    async def download(
        self,
        job_id: str,
        out: Path | str,
        *,
        advance: Callable[[int, int], None] = lambda *_: None,
    ) -> tuple[Path, ...]:
        """Fetch the artifact into `out`: a file, or a folder of shards and their index.

        A file appears when it is whole and its digest is the report's; what has come in when the
        connection or this process dies is not fetched again.

        Raises:
            BadInput: nothing can be written at `out`.
        """
        check_writable(Path(out), or_folder=True)
        digests = (await self.report(job_id)).artifact_sha256
        return await download(self._connection, job_id, digests, Path(out), advance)

    async def download_export(
        self,
        job_id: str,
        to: ExportFormat,
        out: Path | str,
        *,
        advance: Callable[[int, int], None] = lambda *_: None,
    ) -> Path:
        """Fetch another form of the artifact into a file, as `download` does.

        Raises:
            BadInput: nothing can be written at `out`.
            NotFound: the job was not asked for it.
        """
        check_writable(Path(out))
        exports = (await self.report(job_id)).exports
        sha256 = next((each.sha256 for each in exports if each.format == to), None)
        if sha256 is None:
            made = ", ".join(each.format for each in exports) or "none"
            raise NotFound(f"the job has no form {to} of its artifact; it has {made}")
        path = f"/v1/jobs/{job_id}/exports/{to}"
        await Download(self._connection, path, Path(out), sha256).run(advance)
        return Path(out)

    async def webhook_secret(self) -> str:
        """What your webhooks are signed with; who has it can forge them."""
        return (await self._connection.get(WebhookSecret, "/v1/webhook-secret")).secret

    async def rotate_webhook_secret(self) -> str:
        """A new secret; the old one signs nothing from now on."""
        path = "/v1/webhook-secret/rotate"
        answer = await self._connection.post(WebhookSecret, path, is_repeatable=False)
        return answer.secret

    async def keys(self) -> AsyncIterator[Key]:
        """Every key of every owner, newest first; needs the scope admin, as making them does."""
        async for page in self._connection.pages(KeyPage, "/v1/keys"):
            for key in page.items:
                yield key

    async def create_key(self, new: NewKey) -> CreatedKey:
        """Make a key; its secret is in this answer alone."""
        body = new.model_dump(mode="json", exclude_none=True)
        return await self._connection.post(CreatedKey, "/v1/keys", json=body, is_repeatable=False)

    async def revoke_key(self, key_id: str) -> None:
        """Let no request with this key through any more."""
        await self._connection.delete(f"/v1/keys/{key_id}")

    async def _job_request(self, model: Source, arguments: PlanArguments) -> dict[str, object]:
        """Return the body of a request, after uploading the models that are given as files."""
        body, models = arguments.body(), {"model_id": model}
        if arguments.sensitivities is not None:
            models["sensitivities_id"] = arguments.sensitivities
        for name, source in models.items():
            body[name] = model_id_of(source)
            if body[name] is None:
                files = cast("Paths", source)
                body[name] = (await self.upload(files, advance=arguments.advance)).id
        return body
