"""The asynchronous client; the blocking one is derived from it."""

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self, cast
from uuid import uuid4

import anyio

from palettery.app.client.calibrations import PATH as CALIBRATIONS
from palettery.app.client.calibrations import (
    CalibrationEvent,
    calibration_events,
    calibration_options,
    check_succeeded,
    download_calibration,
)
from palettery.app.client.connection import Connection, parse
from palettery.app.client.downloads import Download, download
from palettery.app.client.events import JobEvent, events, log_lines, watch
from palettery.app.client.job_arguments import PlanArguments, SubmitArguments, takes_keywords
from palettery.app.client.progress import count_progress, progress
from palettery.app.client.requests import (
    Config,
    Paths,
    Source,
    check_scored,
    config_path,
    document_request,
    evaluation_request,
    model_id_of,
    paths_of,
    split_sources,
)
from palettery.app.client.retries import ATTEMPTS, Transient
from palettery.app.client.uploads import Advance, FilesUpload
from palettery.app.errors import Conflict, NotFound, PaletteryError
from palettery.app.storage.output_files import check_writable
from palettery.schemas.calibration import CalibrationKind
from palettery.schemas.calibration_jobs import CalibrationJob, CalibrationPage, CalibrationProgress
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.configs import ConfigPage, ConfigSummary, NamedConfig, ValidatedConfig
from palettery.schemas.evaluation import (
    EvaluationSamples,
    JobEvaluation,
    JobEvaluations,
    Quality,
)
from palettery.schemas.events import DeletedJob, LogLine
from palettery.schemas.exports import ExportFormat
from palettery.schemas.jobs import Job, JobPage, JobState, Progress
from palettery.schemas.keys import CreatedKey, Key, KeyPage, Me, NewKey
from palettery.schemas.models import Model, ModelPage, ModelSummary
from palettery.schemas.report import Report
from palettery.schemas.service import Service
from palettery.schemas.statistics import TensorStatistics
from palettery.schemas.targets import PlannedJob
from palettery.schemas.webhooks import WebhookSecret

LOCAL_SERVER = "http://127.0.0.1:8400"
POLL_S = 0.5
"""Interval between two requests for the progress of an evaluation."""


class AsyncClient:
    """A server's API as methods; an error response is raised as the matching exception.

    `url` and `key` default to PALETTERY_SERVER and PALETTERY_KEY. Requests that fail because of a
    lost connection or a busy server are tried up to `attempts` times.
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
        """Return whether the server responds and can accept work."""
        try:
            await self._connection.request_once("GET", "/readyz")
        except (Transient, PaletteryError):
            return False
        return True

    async def me(self) -> Me:
        """Return the owner of the key, with limits and usage."""
        return await self._connection.get(Me, "/v1/me")

    async def service(self) -> Service:
        """Return the state of the server: queue, workers, storage and versions."""
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
        """Upload the files of one model, except those that the server already has.

        `label` is a display name; uploading the same files again changes it.

        An interrupted upload is resumed by calling this again, also from another process. With
        `direct` the bytes are sent straight to the server's object store, if that is reachable from
        here. `advance` is called with ("reading" or "sending", bytes done, total bytes).

        Raises:
            BadInput: a file cannot be read.
            InvalidUpload: a file changed while it was sent.
        """
        options = {"part_size_bytes": part_size_bytes, "label": label}
        files = FilesUpload(self._connection, paths_of(paths), options, direct=direct)
        return await files.run(advance)

    async def models(self) -> AsyncIterator[ModelSummary]:
        """Yield all models, newest first."""
        async for page in self._connection.pages(ModelPage, "/v1/models"):
            for model in page.items:
                yield model

    async def model(self, model_id: str) -> Model:
        """Return a model with its modules and tensors."""
        return await self._connection.get(Model, f"/v1/models/{model_id}")

    async def delete_model(self, model_id: str) -> None:
        """Delete a model; its jobs keep the files they need."""
        await self._connection.delete(f"/v1/models/{model_id}")

    @takes_keywords(PlanArguments)
    async def plan(self, model: Source, arguments: PlanArguments) -> PlannedJob:
        """Return what a job would do. Files are uploaded first, as by `upload`.

        With a target, the plan has what was chosen, and the least error at some 200 sizes. The
        first target of a model waits for a job that computes the scores of its tensors.

        Raises:
            PaletteryError: that job failed or was cancelled.
        """
        body = await self._job_request(model, arguments)
        while True:
            response = await self._connection.call("POST", "/v1/plans", json=body)
            if response.status_code != HTTPStatus.ACCEPTED:
                return parse(PlannedJob, response)
            check_scored(await self.wait(parse(Job, response).id))

    @takes_keywords(SubmitArguments)
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
        """Store a config under a name, as a new version unless it equals the newest.

        Raises:
            InvalidConfig: the config is not valid; names every invalid field.
        """
        document = document_request(config)
        return parse(NamedConfig, await self._connection.call("PUT", config_path(name), **document))

    async def configs(self) -> AsyncIterator[ConfigSummary]:
        """Yield the newest version of every config, by name."""
        async for page in self._connection.pages(ConfigPage, "/v1/configs"):
            for config in page.items:
                yield config

    async def config(self, reference: str) -> NamedConfig:
        """Return the config `name@version`, or the newest version of `name`."""
        return await self._connection.get(NamedConfig, config_path(reference))

    async def delete_config(self, name: str) -> None:
        """Delete all versions of a config; jobs keep theirs."""
        await self._connection.delete(config_path(name))

    async def validate(self, config: Config) -> ValidatedConfig:
        """Return all errors of a config, or the config with every default; nothing is stored."""
        document = document_request(config)
        return await self._connection.post(ValidatedConfig, "/v1/configs/validate", **document)

    async def job(self, job_id: str) -> Job:
        """Return a job in its current state."""
        return await self._connection.get(Job, f"/v1/jobs/{job_id}")

    async def jobs(
        self, *, state: JobState | Sequence[JobState] = (), model_id: str | None = None
    ) -> AsyncIterator[Job]:
        """Yield all jobs, newest first; optionally only those of a state or of a model."""
        states = [state] if isinstance(state, str) else list(state)
        query = {"state": states or None, "model_id": model_id}
        async for page in self._connection.pages(JobPage, "/v1/jobs", **query):
            for job in page.items:
                yield job

    async def cancel(self, job_id: str) -> Job:
        """Cancel a queued or running job; no error if it is already cancelled.

        Raises:
            Conflict: it has already succeeded or failed.
        """
        try:
            return await self._connection.post(Job, f"/v1/jobs/{job_id}/cancel")
        except Conflict:
            job = await self.job(job_id)
            if job.state != "cancelled":
                raise
            return job

    async def retry(self, job_id: str) -> Job:
        """Retry a failed or cancelled job; finished tensors are kept."""
        return await self._connection.post(Job, f"/v1/jobs/{job_id}/retry", is_repeatable=False)

    async def delete(self, job_id: str) -> None:
        """Delete an ended job and its artifact."""
        await self._connection.delete(f"/v1/jobs/{job_id}")

    def events(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        """Yield the events of a job live until it has ended; reconnect automatically.

        Events with a number above `after` are included: with 0, all from the beginning.
        """
        return events(self._connection, job_id, after)

    def watch(self) -> AsyncIterator[Job | DeletedJob]:
        """Yield every job, then every change live; reconnect automatically.

        It never ends. After a lost connection, every job is yielded again.
        """
        return watch(self._connection, self.jobs)

    async def wait(self, job_id: str) -> Job:
        """Wait until a job has ended; show a progress bar in a terminal or notebook."""
        with progress("working") as advance:
            async for event in self.events(job_id):
                done = event.data.progress if isinstance(event.data, Job) else event.data
                if isinstance(done, Progress):
                    advance(done.bytes_done, done.bytes_total)
        return await self.job(job_id)

    def log(self, job_id: str, *, after: int = 0) -> AsyncIterator[LogLine]:
        """Yield the lines of a job's log so far, oldest first."""
        return log_lines(self._connection, job_id, after)

    async def job_config(self, job_id: str) -> KMeansPalettizerConfig:
        """Return the config of a job, with every default."""
        return await self._connection.get(KMeansPalettizerConfig, f"/v1/jobs/{job_id}/config")

    async def report(self, job_id: str) -> Report:
        """Return the report of a succeeded job: the outcome of every tensor."""
        return await self._connection.get(Report, f"/v1/jobs/{job_id}/report")

    async def report_page(self, job_id: str) -> bytes:
        """Return the report as a self-contained HTML page."""
        return (await self._connection.call("GET", f"/v1/jobs/{job_id}/report.html")).content

    async def evaluate(
        self,
        job_id: str,
        inputs: Source,
        *,
        at_least: Quality | Mapping[str, float] | None = None,
        wait: bool = True,
        per_sample: bool = False,
    ) -> JobEvaluation:
        """Run a job's model before and after on inputs, and compare the outputs.

        `inputs` are files, each of which is uploaded first, or ids of uploads. `at_least` is the
        quality to reach, such as `{"cosine": 0.98, "percentile": 5}`; what is missed is in
        `result.missed`. Without `wait`, the evaluation is returned as it was queued; with
        `per_sample`, the outputs of its result have the comparison of each sample.

        Raises:
            BadInput: the inputs are not those of the model, or `at_least` is not valid.
            Conflict: the job has no artifact.
        """
        body = evaluation_request(await self._inputs_id(inputs), at_least)
        path = f"/v1/jobs/{job_id}/evaluations"
        evaluation = await self._connection.post(
            JobEvaluation, path, json=body, is_repeatable=False
        )
        while wait and evaluation.ended_at is None:
            await anyio.sleep(POLL_S)
            evaluation = await self.evaluation(job_id, evaluation.id)
        if per_sample and evaluation.result is not None:
            samples = await self.evaluation_samples(job_id, evaluation.id)
            result = evaluation.result.with_samples(samples)
            evaluation = evaluation.model_copy(update={"result": result})
        return evaluation

    async def evaluation(self, job_id: str, evaluation_id: str) -> JobEvaluation:
        """Return an evaluation of a job in its current state."""
        path = f"/v1/jobs/{job_id}/evaluations/{evaluation_id}"
        return await self._connection.get(JobEvaluation, path)

    async def evaluation_samples(self, job_id: str, evaluation_id: str) -> EvaluationSamples:
        """Return the comparison of each sample of an evaluation that has succeeded.

        Raises:
            Conflict: it has not succeeded.
            NotFound: there is no such evaluation, or it has too many samples.
        """
        path = f"/v1/jobs/{job_id}/evaluations/{evaluation_id}/samples"
        return await self._connection.get(EvaluationSamples, path)

    async def evaluations(self, job_id: str) -> Sequence[JobEvaluation]:
        """Return all evaluations of a job, newest first."""
        path = f"/v1/jobs/{job_id}/evaluations"
        return (await self._connection.get(JobEvaluations, path)).items

    async def statistics(self, job_id: str, tensor: str) -> TensorStatistics:
        """Return statistics of a tensor: histograms, palette, error by group."""
        path = f"/v1/jobs/{job_id}/statistics"
        return await self._connection.get(TensorStatistics, path, tensor=tensor)

    async def download(
        self,
        job_id: str,
        out: Path | str,
        *,
        advance: Callable[[int, int], None] = lambda *_: None,
    ) -> tuple[Path, ...]:
        """Download the artifact to `out`: a file, or a folder of shards and their index.

        A file appears once it is complete and matches the SHA-256 of the report. An interrupted
        download is resumed, also from another process.

        Raises:
            BadInput: `out` is not writable.
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
        """Download an export of the artifact to a file, as `download` does.

        Raises:
            BadInput: `out` is not writable.
            NotFound: the job has no such export.
        """
        check_writable(Path(out))
        exports = (await self.report(job_id)).exports
        sha256 = next((export.sha256 for export in exports if export.format == to), None)
        if sha256 is None:
            formats = ", ".join(export.format for export in exports) or "none"
            raise NotFound(f"the job has no export {to}; it has {formats}")
        path = f"/v1/jobs/{job_id}/exports/{to}"
        await Download(self._connection, path, Path(out), sha256).run(advance)
        return Path(out)

    async def calibrate(
        self,
        model: Source,
        inputs: Source,
        *,
        kind: CalibrationKind | None = None,
        outputs: Sequence[str] | None = None,
        draws: int | None = None,
        batch: int | None = None,
        seed: int | None = None,
        advance: Advance = lambda *_: None,
    ) -> CalibrationJob:
        """Measure how much each weight of a model matters on inputs; wait until that is done.

        The arguments are those of `submit_calibration`. The result's `id` is for
        `submit(..., calibration_id=...)`.

        Raises:
            BadInput: the model cannot be run, or the inputs do not fit it.
        """
        job = await self.submit_calibration(
            model,
            inputs,
            kind=kind,
            outputs=outputs,
            draws=draws,
            batch=batch,
            seed=seed,
            advance=advance,
        )
        return check_succeeded(await self.wait_for_calibration(job.id))

    async def submit_calibration(
        self,
        model: Source,
        inputs: Source,
        *,
        kind: CalibrationKind | None = None,
        outputs: Sequence[str] | None = None,
        draws: int | None = None,
        batch: int | None = None,
        seed: int | None = None,
        idempotency_key: str | None = None,
        advance: Advance = lambda *_: None,
    ) -> CalibrationJob:
        """Queue a calibration of a model: a `.pt2`, or files of a Hugging Face folder.

        `inputs` are safetensors files with the model's inputs by name. Files are uploaded first, as
        by `upload`; of inputs, each on its own. The same model, inputs and options again give the
        calibration that is there. The other arguments are the fields of `CalibrationOptions`.
        """
        options = calibration_options(
            kind=kind, outputs=outputs, draws=draws, batch=batch, seed=seed
        )
        body = options.model_dump(mode="json", exclude_defaults=True)
        body["model_id"] = await self._id_of(model, advance)
        body["inputs_id"] = await self._inputs_id(inputs, advance)
        headers = {"Idempotency-Key": idempotency_key or str(uuid4())}
        return await self._connection.post(CalibrationJob, CALIBRATIONS, json=body, headers=headers)

    async def calibration(self, calibration_id: str) -> CalibrationJob:
        """Return a calibration in its current state."""
        return await self._connection.get(CalibrationJob, f"{CALIBRATIONS}/{calibration_id}")

    async def calibrations(self) -> AsyncIterator[CalibrationJob]:
        """Yield all calibrations, newest first."""
        async for page in self._connection.pages(CalibrationPage, CALIBRATIONS):
            for calibration in page.items:
                yield calibration

    def calibration_events(
        self, calibration_id: str, *, after: int = 0
    ) -> AsyncIterator[CalibrationEvent]:
        """Yield the events of a calibration live until it has ended, as `events` does of a job."""
        return calibration_events(self._connection, calibration_id, after)

    async def wait_for_calibration(self, calibration_id: str) -> CalibrationJob:
        """Wait until a calibration has ended; show a progress bar in a terminal or notebook."""
        with count_progress("calibrating") as advance:
            async for event in self.calibration_events(calibration_id):
                if isinstance(event.data, CalibrationProgress):
                    advance(event.data.samples_done, event.data.samples_total)
        return await self.calibration(calibration_id)

    async def cancel_calibration(self, calibration_id: str) -> CalibrationJob:
        """Cancel a queued or running calibration."""
        return await self._connection.post(
            CalibrationJob, f"{CALIBRATIONS}/{calibration_id}/cancel"
        )

    async def retry_calibration(self, calibration_id: str) -> CalibrationJob:
        """Retry a failed or cancelled calibration, from its last saved batch."""
        path = f"{CALIBRATIONS}/{calibration_id}/retry"
        return await self._connection.post(CalibrationJob, path, is_repeatable=False)

    async def delete_calibration(self, calibration_id: str) -> None:
        """Delete an ended calibration; jobs that used it keep what they need."""
        await self._connection.delete(f"{CALIBRATIONS}/{calibration_id}")

    async def download_calibration(
        self,
        calibration_id: str,
        out: Path | str,
        *,
        advance: Callable[[int, int], None] = lambda *_: None,
    ) -> Path:
        """Download a calibration into a folder, for `palettery compress --calibration`.

        Raises:
            Conflict: it has not succeeded.
        """
        calibration = await self.calibration(calibration_id)
        return await download_calibration(self._connection, calibration, Path(out), advance)

    async def webhook_secret(self) -> str:
        """Return the secret that signs your webhooks; keep it private."""
        return (await self._connection.get(WebhookSecret, "/v1/webhook-secret")).secret

    async def rotate_webhook_secret(self) -> str:
        """Replace the webhook secret, and return the new one."""
        path = "/v1/webhook-secret/rotate"
        answer = await self._connection.post(WebhookSecret, path, is_repeatable=False)
        return answer.secret

    async def keys(self) -> AsyncIterator[Key]:
        """Yield the keys of all owners, newest first; requires the scope `admin`."""
        async for page in self._connection.pages(KeyPage, "/v1/keys"):
            for key in page.items:
                yield key

    async def create_key(self, new: NewKey) -> CreatedKey:
        """Create a key; its secret is shown only once; requires the scope `admin`."""
        body = new.model_dump(mode="json", exclude_none=True)
        return await self._connection.post(CreatedKey, "/v1/keys", json=body, is_repeatable=False)

    async def revoke_key(self, key_id: str) -> None:
        """Revoke a key; requires the scope `admin`."""
        await self._connection.delete(f"/v1/keys/{key_id}")

    async def _job_request(self, model: Source, arguments: PlanArguments) -> dict[str, object]:
        """Return the body of a request, after uploading the models that are given as files."""
        body, models = arguments.body(), {"model_id": model}
        if arguments.sensitivities is not None:
            models["sensitivities_id"] = arguments.sensitivities
        for name, source in models.items():
            body[name] = await self._id_of(source, arguments.advance)
        if arguments.evaluate is not None:
            inputs_id = await self._inputs_id(arguments.evaluate.inputs_id, arguments.advance)
            goals = arguments.evaluate.model_dump(exclude={"inputs_id"}, exclude_defaults=True)
            body["evaluate"] = goals | {"inputs_id": inputs_id}
        return body

    async def _id_of(self, source: Source, advance: Advance = lambda *_: None) -> str:
        """Return the id of an upload, after uploading it if it is given as files."""
        return model_id_of(source) or (await self.upload(cast("Paths", source), advance=advance)).id

    async def _inputs_id(
        self, inputs: Source, advance: Advance = lambda *_: None
    ) -> str | list[str]:
        """Return the id of inputs, or several, after uploading each that is given as a file."""
        ids = [await self._id_of(source, advance) for source in split_sources(inputs)]
        return ids if ids[1:] else ids[0]
