"""Steps of a job's workflow. Each may be interrupted anywhere and run again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from palettery.app.compression.job_folder import (
    discard_artifact,
    job_folder,
    read_tasks,
    stored_sizes,
)
from palettery.app.compression.perform_task import describe
from palettery.app.errors import (
    ERRORS,
    Cancelled,
    DatabaseFailed,
    NotFound,
    PaletteryError,
    problem,
)
from palettery.app.evaluations.conclusion import conclusion
from palettery.app.evaluations.steps import EvaluationSteps
from palettery.app.events import log_messages as lines
from palettery.app.events.log_messages import LogMessage
from palettery.app.events.repository import EventRepository
from palettery.app.execution.fanout import OnDied, Workers
from palettery.app.jobs.assembly import SMALL_BYTES, Assembly, share
from palettery.app.jobs.progress_counter import ProgressCounter, reused_tensors
from palettery.app.jobs.repository import JobRepository
from palettery.app.jobs.result_reuse import ResultReuse
from palettery.app.jobs.target_steps import TargetSteps
from palettery.app.observability.metrics import Metrics
from palettery.app.settings import Settings
from palettery.app.storage.base import Storage
from palettery.schemas.evaluation import Evaluation
from palettery.schemas.jobs import ENDED_STATES, Job, Progress
from palettery.schemas.tasks import (
    CompressionTask,
    Published,
    Task,
)

TINY_BYTES = 4 << 20
"""Work up to this size is done in the same task, too."""


class JobSteps:
    """Runs a job's tasks, publishes its artifact and records its end."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobRepository,
        events: EventRepository,
        store: Storage,
        workers: Workers,
        assembly: Assembly,
        targets: TargetSteps,
        reuse: ResultReuse,
        evaluations: EvaluationSteps,
        metrics: Metrics,
        calibrate: Callable[[Job], Awaitable[None]],
    ) -> None:
        self._calibrate = calibrate
        self._settings, self._jobs, self._store = settings, jobs, store
        self._events, self._evaluations = events, evaluations
        self._workers, self._reuse, self._metrics = workers, reuse, metrics
        self._assembly, self._targets = assembly, targets

    async def run(self, job_id: str, attempt: int) -> None:
        """Choose a config for a target; write missing parts, then the artifact; evaluate it.

        The job has succeeded once the artifact was read back and verified, and has the quality
        that the job requires.
        """
        by = self._settings.executor_id
        job = await asyncio.to_thread(self._jobs.start, job_id, attempt, by)
        if job is None:
            await asyncio.to_thread(self._tidy, job_id, attempt)  # a crash may have prevented it
            return
        if job.kind == "calibration":
            await self._calibrate(job)
            await asyncio.to_thread(self._tidy, job_id, attempt)
            return
        try:
            if job.kind == "scores":
                await self._score(job)
                return
            if job.evaluation is not None:  # inputs that do not fit are reported at once
                log, died = self._log_of(job), self._on_died(job)
                await self._evaluations.store_outputs(job.evaluation.id, log, died)
            if job.target is not None and job.predicted_size_bytes is None:
                died = self._on_died(job)
                job = await self._targets.choose(job, share(job), died, self._log)
            await self._compress(job)
        except Cancelled:
            await asyncio.to_thread(self._tidy, job_id, attempt)
            raise

    async def _score(self, job: Job) -> None:
        """Compute the scores of a model, which are stored for all targets."""
        done = await self._targets.score(job, share(job), self._on_died(job))
        until, log = self._expiry(), (lines.SCORED,)
        await asyncio.to_thread(self._jobs.succeed, job.id, None, until, done, job.attempt, log)
        await asyncio.to_thread(self._tidy, job.id, job.attempt)

    async def _compress(self, job: Job) -> None:
        """Write the missing parts of a job whose config is known, then the artifact."""
        if await self._copy_twin(job):
            return
        tasks, parts = await asyncio.to_thread(self._read_tasks, job)
        done = ProgressCounter(job, self._jobs, self._metrics)
        missing = done.missing(tasks, parts)
        if job.reuse:
            missing = await self._reuse.with_results(
                job, missing, self._assembly.task(job), self._workers
            )
        cut = lines.task_summary(
            len(tasks), len(tasks) - len(missing), sum(map(reused_tensors, missing))
        )
        is_tiny = sum(task.size_bytes for task in missing) <= TINY_BYTES
        if not is_tiny:  # a tiny job logs this together with its end
            await self._log(job.id, cut)
        if not is_tiny:
            died = self._on_died(job)
            await self._workers.run_tasks(missing, done.on_done, share(job), died)
            missing = []
        is_small = bool(missing) or job.size_before_bytes <= SMALL_BYTES
        published = await self._assembly.publish(
            job,
            job_folder(job.id),
            missing,
            self._log_of(job),
            self._on_died(job),
            is_small=is_small,
        )
        for task in missing:
            done.finish(task)
        log = [cut] if is_tiny else []
        if is_small:  # a large job logs each when it happens
            log += [lines.WRITTEN, lines.VERIFIED]
        await self._conclude(job, published, done.now, log)

    async def fail(self, job_id: str, attempt: int, code: str, detail: str) -> None:
        """Record a failure and delete a partial artifact; finished parts stay for a retry."""
        failure = problem(ERRORS.get(code, PaletteryError)(detail), f"/v1/jobs/{job_id}")
        await asyncio.to_thread(self._jobs.fail, job_id, failure, self._expiry(), attempt)
        await asyncio.to_thread(self._tidy, job_id, attempt)

    async def log_retry(self, job_id: str, error: BaseException) -> None:
        """Write to the job's log why a step will be retried."""
        reason = "a network connection failed"
        if isinstance(error, PaletteryError):
            reason = error.detail
            self._metrics.failed(error)
        await self._log(job_id, lines.retry(reason))

    def _read_tasks(self, job: Job) -> tuple[list[CompressionTask], set[str]]:
        """Return a job's tasks, and the paths of the parts that exist."""
        prefix = job_folder(job.id)
        tasks = read_tasks(self._store, prefix, job.attempt)
        return tasks, set(self._store.list(f"{prefix}/parts"))

    async def _copy_twin(self, job: Job) -> bool:
        """Succeed by copying the artifact of a job with the same request, if there is one."""
        if not job.reuse:
            return False
        copied = await self._reuse.copy_twin(job, job_folder(job.id))
        if copied is None:
            return False
        done = Progress(
            tensors_done=job.progress.tensors_total,
            tensors_total=job.progress.tensors_total,
            tensors_reused=job.progress.tensors_total,
            bytes_done=job.progress.bytes_total,
            bytes_total=job.progress.bytes_total,
        )
        await self._conclude(job, copied, done, (lines.REUSED,))
        self._metrics.reused(done.tensors_total)
        return True

    async def _conclude(
        self, job: Job, published: Published, done: Progress, log: Sequence[LogMessage]
    ) -> None:
        """Evaluate a published artifact if the job asks for that; then record the job's end."""
        result = None
        if job.evaluation is not None:
            await self._log(job.id, *log)
            log = ()
            to_log, died = self._log_of(job), self._on_died(job)
            result = await self._targets.evaluation(job)
            if result is None:
                result = await self._evaluations.compare(job.evaluation.id, to_log, died)
            else:
                await self._evaluations.conclude(job.evaluation.id, result)
            sizes = await asyncio.to_thread(stored_sizes, self._store, job_folder(job.id))
            published = published.model_copy(update={"stored_bytes": sum(sizes.values())})
        await asyncio.to_thread(self._succeed, job, published, done, log, result)

    def _succeed(
        self,
        job: Job,
        published: Published,
        done: Progress,
        log: Sequence[LogMessage],
        result: Evaluation | None,
    ) -> None:
        """Record that a job succeeded or missed its quality, unless it was cancelled meanwhile."""
        size, until, stored = published.size_bytes, self._expiry(), published.stored_bytes
        log = [
            *log,
            *lines.kept_tensors(published.kept),
            lines.size_summary(job.size_before_bytes, size),
            *(lines.evaluation_summary(result) if result else ()),
        ]
        evaluation, missed = conclusion(job, result)
        if (
            self._jobs.succeed(
                job.id, size, until, done, job.attempt, log, stored, evaluation, missed
            )
            and job.reuse
            and published.results
        ):
            self._reuse.remember(job, published.results)
        self._tidy(job.id, job.attempt)

    def _tidy(self, job_id: str, attempt: int) -> None:
        """Delete files that an ended job does not need, unless a later attempt runs."""
        try:
            job = self._jobs.get(job_id)
        except NotFound:  # deleted; expiry removes the rest
            return
        if job.attempt != attempt:
            return
        prefix = job_folder(job_id)
        if job.state == "succeeded":
            self._store.delete_folder(f"{prefix}/parts")
        elif job.state in ENDED_STATES and not job.has_artifact:
            discard_artifact(self._store, prefix)

    async def _log(self, job_id: str, *log_lines: LogMessage) -> None:
        """Write to the job's log; the job goes on if that fails."""
        with suppress(DatabaseFailed):
            await asyncio.to_thread(self._events.log, job_id, *log_lines)

    def _log_of(self, job: Job) -> Callable[[LogMessage], Awaitable[None]]:
        async def log(line: LogMessage) -> None:
            await self._log(job.id, line)

        return log

    def _on_died(self, job: Job) -> OnDied:
        async def on_died(tasks: Sequence[Task]) -> None:
            await self._log(
                job.id, *(lines.worker_death(describe(task), _tensor(task)) for task in tasks)
            )

        return on_died

    def _expiry(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=self._settings.retain_days)


def _tensor(task: Task) -> str | None:
    """Return the tensor of a task, if it has only one."""
    names = {part.name for part in task.slices} if isinstance(task, CompressionTask) else set()
    return names.pop() if len(names) == 1 else None
