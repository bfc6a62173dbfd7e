"""Steps of a job with a target, before its tasks are known: scores, then the choice of a config."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial

from palettery.app.compression.job_folder import job_folder
from palettery.app.events.log_messages import LogMessage
from palettery.app.execution.fair_slots import SlotRequest
from palettery.app.execution.fanout import OnDied, Workers
from palettery.app.jobs.preparation import JobStorage
from palettery.app.jobs.progress_counter import store_progress
from palettery.app.jobs.quality_steps import QualitySteps
from palettery.app.jobs.quality_trials import choose_measured
from palettery.app.jobs.repository import JobRepository
from palettery.app.jobs.target_choices import choose, store_scores
from palettery.app.jobs.target_documents import read_score_tasks
from palettery.app.sandbox.document_pool import LARGE_BYTES, DocumentClient, DocumentPool
from palettery.app.settings import Settings
from palettery.app.storage.base import Storage
from palettery.schemas.evaluation import Evaluation
from palettery.schemas.jobs import Job, Progress
from palettery.schemas.tasks import Answer, ScoreTask, Task

Log = Callable[[str, LogMessage], Awaitable[None]]
"""Writes a message to a job's log, called with (job id, message)."""


class TargetSteps:
    """Scores the tensors of a job's model, and chooses the config that reaches its target."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobRepository,
        store: Storage,
        workers: Workers,
        documents: DocumentPool,
        quality: QualitySteps,
    ) -> None:
        self._settings, self._jobs, self._store = settings, jobs, store
        self._workers, self._documents, self._quality = workers, documents, quality

    async def score(self, job: Job, slot: SlotRequest, on_died: OnDied) -> Progress:
        """Store the scores of a model and its curve of error by size; return the progress."""
        paths = await self._scores(job, slot, on_died)
        await self._documents.run(
            DocumentClient(job.owner),
            LARGE_BYTES,
            store_scores,
            self._store.url,
            job_folder(job.id),
            paths,
            self._settings.limits,
        )
        total = job.progress
        return total.model_copy(
            update={"tensors_done": total.tensors_total, "bytes_done": total.bytes_total}
        )

    async def choose(self, job: Job, slot: SlotRequest, on_died: OnDied, log: Log) -> Job:
        """Choose the config of a job, by measurements if its target is a quality; return the job.

        Raises:
            BadInput: no choice reaches the target.
            Cancelled: the job was stopped meanwhile.
        """
        paths = await self._scores(job, slot, on_died)
        task_bytes = self._settings.task_bytes
        folder, choose_config = job_folder(job.id), choose
        storage = JobStorage(folder, {}, task_bytes, job.reuse, job.owner)
        if job.target is not None and job.target.quality is not None:
            storage, choose_config = (
                replace(storage, shared_parts=f"{folder}/parts"),
                choose_measured,
            )
            await self._quality.search(job, storage, paths, on_died, partial(log, job.id))
        chosen = await self._documents.run(
            DocumentClient(job.owner),
            LARGE_BYTES,
            choose_config,
            self._store.url,
            storage,
            paths,
            self._settings.limits,
        )
        columns = {
            "predicted_size_bytes": chosen.size_bytes,
            "stored_bytes": chosen.stored_bytes,
            "request_sha256": chosen.request_sha256,
        }
        await store_progress(self._jobs, job, chosen.progress, **columns)
        for message in chosen.messages:
            await log(job.id, message)
        return await asyncio.to_thread(self._jobs.get, job.id)

    async def evaluation(self, job: Job) -> Evaluation | None:
        """Return the evaluation of the choice of a job; None if its target is not a quality."""
        if job.target is None or job.target.quality is None:
            return None
        return await asyncio.to_thread(self._quality.evaluation, job)

    async def _scores(self, job: Job, slot: SlotRequest, on_died: OnDied) -> Mapping[str, str]:
        """Score the tensors without scores; return tensor name -> path of its scores."""
        prefix = job_folder(job.id)
        tasks = await asyncio.to_thread(read_score_tasks, self._store, prefix, job.attempt)
        known = job.progress.tensors_total - sum(len(task.tensors) for task in tasks)
        paths: dict[str, str] = {}
        size_bytes = 0

        async def on_done(task: Task, answer: Answer) -> None:
            nonlocal size_bytes
            assert isinstance(task, ScoreTask)  # noqa: S101 - there are no others here
            assert isinstance(answer, tuple)  # noqa: S101 - the result of a ScoreTask
            names = [tensor.name for tensor in task.tensors]
            paths.update(zip(names, answer, strict=True))
            if job.kind == "scores":
                size_bytes += sum(tensor.size_bytes for tensor in task.tensors)
                done = {"tensors_done": known + len(paths), "bytes_done": size_bytes}
                await store_progress(self._jobs, job, job.progress.model_copy(update=done))

        await self._workers.run_tasks(tasks, on_done, slot, on_died)
        return paths
