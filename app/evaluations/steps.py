"""Steps of an evaluation, of a job that asks for one or on its own; each may be run again."""

import asyncio
from collections.abc import Awaitable, Callable

from palettery.app.compression.job_folder import (
    job_folder,
    outputs_path,
    samples_path,
    size_or_zero,
    stop_path,
)
from palettery.app.errors import ERRORS, ObjectMissing, PaletteryError, problem
from palettery.app.evaluations.repository import EvaluationRepository, NewEvaluation
from palettery.app.events import log_messages as lines
from palettery.app.events.log_messages import LogMessage
from palettery.app.execution.fair_slots import SlotRequest
from palettery.app.execution.fanout import OnDied, OnProgress, Workers
from palettery.app.files.repository import FileRepository
from palettery.app.storage.base import Storage
from palettery.schemas.evaluation import Evaluation, EvaluationProgress
from palettery.schemas.jobs import Job
from palettery.schemas.tasks import EvaluateTask, OutputsTask, StoredOutputs

LOGGED_SHARES = 4
"""Lines of the log about the progress of each of the two runs."""
Log = Callable[[LogMessage], Awaitable[None]]
"""Writes a line to the log of the job that an evaluation is part of."""


async def _no_log(_: LogMessage) -> None:
    """Stand in for the log of an evaluation on its own: its job has ended."""


class EvaluationSteps:
    """Runs the tasks of evaluations, and stores their results."""

    def __init__(
        self,
        evaluations: EvaluationRepository,
        files: FileRepository,
        store: Storage,
        workers: Workers,
    ) -> None:
        self._evaluations, self._files = evaluations, files
        self._store, self._workers = store, workers

    async def store_outputs(
        self, evaluation_id: str, log: Log = _no_log, on_died: OnDied | None = None
    ) -> None:
        """Store the outputs of the model before palettization, unless they are stored already.

        Raises:
            BadInput: the model cannot be run on the inputs.
        """
        started = await asyncio.to_thread(self._evaluations.start, evaluation_id)
        if started is None:
            return
        job, evaluation = started
        path = outputs_path(job_folder(job.id), evaluation.outputs_key)
        if await asyncio.to_thread(self._store.exists, path):
            return
        if await asyncio.to_thread(self._copy_outputs, job, evaluation, path):
            await log(lines.OUTPUTS_REUSED)
            await asyncio.to_thread(self._count, job, evaluation, path)
            return
        await log(lines.RUNNING_BEFORE)
        task = OutputsTask(**await asyncio.to_thread(self._fields, job, evaluation))
        progress = self._on_progress(evaluation_id, log, run=0)
        answer = await self._workers.run_task(task, _share(job), on_died, progress)
        assert isinstance(answer, StoredOutputs)  # noqa: S101 - the result of an OutputsTask
        if answer.size_bytes:
            await asyncio.to_thread(self._count, job, evaluation, path)

    async def compare(
        self, evaluation_id: str, log: Log = _no_log, on_died: OnDied | None = None
    ) -> Evaluation | None:
        """Compare the artifact's outputs with the model's, and store the result.

        Returns None if the evaluation was deleted with its job.

        Raises:
            BadInput: the model cannot be run on the inputs.
        """
        result = await self.measure(evaluation_id, log, on_died)
        if result is not None:
            await self.conclude(evaluation_id, result)
        return result

    async def conclude(self, evaluation_id: str, result: Evaluation) -> None:
        """Store the result of an evaluation."""
        await asyncio.to_thread(self._evaluations.succeed, evaluation_id, result)

    async def measure(
        self,
        evaluation_id: str,
        log: Log = _no_log,
        on_died: OnDied | None = None,
        prefix: str | None = None,
    ) -> Evaluation | None:
        """Compare an artifact's outputs with the model's; `prefix` is its folder, if not the job's.

        Returns None if the evaluation was deleted with its job.

        Raises:
            BadInput: the model cannot be run on the inputs.
        """
        started = await asyncio.to_thread(self._evaluations.start, evaluation_id)
        if started is None:
            return None
        job, evaluation = started
        await log(lines.RUNNING_AFTER)
        fields = await asyncio.to_thread(self._fields, job, evaluation)
        folder = job_folder(job.id) if prefix is None else prefix
        samples = samples_path(folder, evaluation_id)
        task = EvaluateTask(
            **fields | {"prefix": folder},
            writes_report=evaluation.is_part_of_job,
            samples_path=samples,
        )
        counted = await asyncio.to_thread(size_or_zero, self._store, samples)
        progress = self._on_progress(evaluation_id, log, run=1)
        result = await self._workers.run_task(task, _share(job), on_died, progress)
        assert isinstance(result, Evaluation)  # noqa: S101 - the result of an EvaluateTask
        await asyncio.to_thread(self._count, job, evaluation, samples, counted)
        return result

    async def run(self, evaluation_id: str) -> None:
        """Run an evaluation that is no part of its job."""
        await self.store_outputs(evaluation_id)
        await self.compare(evaluation_id)

    async def fail(self, evaluation_id: str, code: str, detail: str) -> None:
        """Store why an evaluation failed."""
        failure = problem(ERRORS.get(code, PaletteryError)(detail))
        await asyncio.to_thread(self._evaluations.fail, evaluation_id, failure)

    def _copy_outputs(self, job: Job, evaluation: NewEvaluation, path: str) -> bool:
        """Copy the outputs that another job of the owner has stored; return whether one has."""
        for other in self._evaluations.with_outputs(job, evaluation.outputs_key):
            try:
                self._store.copy(outputs_path(job_folder(other), evaluation.outputs_key), path)
            except ObjectMissing:  # too large to be stored, not stored yet, or deleted meanwhile
                continue
            return True
        return False

    def _count(
        self, job: Job, evaluation: NewEvaluation, path: str, counted_bytes: int = 0
    ) -> None:
        """Count the size of a new object; a job that runs counts all of its folder at its end."""
        if not evaluation.is_part_of_job:
            size_bytes = size_or_zero(self._store, path) - counted_bytes
            self._evaluations.add_stored_bytes(job.id, size_bytes)

    def _fields(self, job: Job, evaluation: NewEvaluation) -> dict[str, object]:
        """Return the fields of both tasks, with the current paths of the inputs."""
        prefix = job_folder(job.id)
        paths = self._files.find([file.sha256 for file in evaluation.inputs if file.sha256])
        stop = stop_path(prefix, job.attempt)
        if not evaluation.is_part_of_job:  # cancelling the job does not concern it
            stop = f"{prefix}/stop-{evaluation.id}"
        return {
            "store_url": self._store.url,
            "prefix": prefix,
            "cancel_path": stop,
            "inputs": tuple(
                file.model_copy(update={"path": paths.get(file.sha256 or "", file.path)})
                for file in evaluation.inputs
            ),
            "at_least": evaluation.at_least,
            "outputs_path": outputs_path(prefix, evaluation.outputs_key),
        }

    def _on_progress(self, evaluation_id: str, log: Log, *, run: int) -> OnProgress:
        """Return a callback for the first (0) or the second run of a model."""
        logged = 0

        async def on_progress(done: int, total: int) -> None:
            nonlocal logged
            progress = EvaluationProgress(samples_done=run * total + done, samples_total=2 * total)
            await asyncio.to_thread(self._evaluations.advance, evaluation_id, progress)
            if (share := LOGGED_SHARES * done // total) > logged:
                logged = share
                await log(lines.samples_done(done, total, is_after=run > 0))

        return on_progress


def _share(job: Job) -> SlotRequest:
    return SlotRequest(job.owner, job.priority, job.id)
