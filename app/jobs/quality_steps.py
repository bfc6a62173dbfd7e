"""Steps of a job that seeks the smallest artifact of a quality; each may be run again."""

import asyncio
from collections.abc import Mapping

from palettery.app.compression.job_folder import job_folder, read_tasks, stop_path
from palettery.app.errors import Cancelled
from palettery.app.evaluations.steps import EvaluationSteps
from palettery.app.events import log_messages as lines
from palettery.app.events.log_messages import LogMessage
from palettery.app.execution.fanout import OnDied, Workers
from palettery.app.jobs.assembly import SMALL_BYTES, Assembly, Log, share
from palettery.app.jobs.preparation import JobStorage
from palettery.app.jobs.progress_counter import ProgressCounter, store_progress
from palettery.app.jobs.quality_trials import (
    Trial,
    next_trial,
    read_evaluation,
    read_search,
    record_trial,
)
from palettery.app.jobs.repository import JobRepository
from palettery.app.jobs.result_reuse import ResultReuse
from palettery.app.observability.metrics import Metrics
from palettery.app.sandbox.document_pool import LARGE_BYTES, DocumentClient, DocumentPool
from palettery.app.settings import Settings
from palettery.app.storage.base import Storage
from palettery.schemas.evaluation import Evaluation
from palettery.schemas.jobs import Job


class QualitySteps:
    """Palettizes and measures one choice after the other, until the search has ended."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobRepository,
        store: Storage,
        workers: Workers,
        documents: DocumentPool,
        assembly: Assembly,
        evaluations: EvaluationSteps,
        reuse: ResultReuse,
        metrics: Metrics,
    ) -> None:
        self._settings, self._jobs, self._store = settings, jobs, store
        self._workers, self._documents, self._assembly = workers, documents, assembly
        self._evaluations, self._reuse, self._metrics = evaluations, reuse, metrics

    async def search(
        self, job: Job, storage: JobStorage, paths: Mapping[str, str], died: OnDied, log: Log
    ) -> None:
        """Measure choices for a job, and store what was measured; go on after an interruption.

        `paths` are those of the scores of each tensor that was scored for the job.

        Raises:
            Cancelled: the job was stopped meanwhile, or deleted.
        """
        assert job.target is not None  # noqa: S101 - callers checked
        assert job.target.quality is not None  # noqa: S101
        assert job.evaluation is not None  # noqa: S101 - a quality is measured by it
        client, url, limits = DocumentClient(job.owner), self._store.url, self._settings.limits
        run = self._documents.run
        while trial := await run(client, LARGE_BYTES, next_trial, url, storage, paths, limits):
            evaluation = await asyncio.to_thread(read_evaluation, self._store, trial)
            if evaluation is None:
                evaluation = await self._measured(job, trial, died, log)
            measured = await asyncio.to_thread(
                record_trial,
                self._store,
                job_folder(job.id),
                trial,
                job.target.quality,
                evaluation,
                job.evaluation.id,
            )
            await log(lines.measured_size(trial.number + 1, measured))

    def evaluation(self, job: Job) -> Evaluation | None:
        """Return the evaluation of the best choice of a job."""
        return read_search(self._store, job_folder(job.id)).evaluation

    async def _measured(self, job: Job, trial: Trial, died: OnDied, log: Log) -> Evaluation:
        """Palettize what no trial before has palettized, and measure the artifact."""
        assert job.evaluation is not None  # noqa: S101 - a quality is measured by it
        evaluation_id = job.evaluation.id
        job = job.model_copy(update={"progress": trial.chosen.progress})
        await store_progress(self._jobs, job, trial.chosen.progress)
        await self._palettize(job, trial, died)
        is_small = job.size_before_bytes <= SMALL_BYTES
        await self._assembly.publish(job, trial.prefix, (), _no_log, died, is_small=is_small)
        evaluation = await self._evaluations.measure(evaluation_id, log, died, trial.prefix)
        if evaluation is None:
            raise Cancelled("the job was deleted while it ran")
        return evaluation

    async def _palettize(self, job: Job, trial: Trial, died: OnDied) -> None:
        folder = job_folder(job.id)
        tasks = await asyncio.to_thread(read_tasks, self._store, trial.prefix)
        there = set(await asyncio.to_thread(lambda: list(self._store.list(f"{folder}/parts"))))
        stop = stop_path(folder, job.attempt)
        done = ProgressCounter(job, self._jobs, self._metrics)
        missing = [
            task.model_copy(update={"cancel_path": stop}) for task in done.missing(tasks, there)
        ]
        if job.reuse:
            own = self._assembly.task(job)
            missing = await self._reuse.with_results(job, missing, own, self._workers)
        await self._workers.run_tasks(missing, done.on_done, share(job), died)
        await store_progress(self._jobs, job, done.now)


async def _no_log(_: LogMessage) -> None:
    """Stand in for the log: a trial's artifact is none of the job's yet."""
