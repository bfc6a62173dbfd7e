"""Reuse of results of earlier jobs, looked up by the location or digest of their input bytes."""

import asyncio
from collections.abc import Iterator, Sequence

from palettery.app.compression.job_folder import job_folder, report_path
from palettery.app.compression.result_keys import content_key, origin_key, recipe
from palettery.app.compression.sources import Sources
from palettery.app.compression.task import verified_reader
from palettery.app.errors import NotFound, ObjectMissing, TooLarge, WorkerDied
from palettery.app.execution.fair_slots import SlotRequest
from palettery.app.execution.fanout import Workers
from palettery.app.jobs.repository import JobRepository
from palettery.app.jobs.result_copy import copy_results
from palettery.app.jobs.result_repository import ResultRepository
from palettery.app.sandbox.document_pool import DocumentClient, DocumentPool
from palettery.app.storage.base import Storage
from palettery.schemas.jobs import Job
from palettery.schemas.tasks import (
    Answer,
    CompressionTask,
    DigestTask,
    JobTask,
    Published,
    Result,
    StoredSlice,
    Task,
    TensorSlice,
)

LOCAL_DIGEST_BYTES = 4 << 20
"""Total size up to which inputs are digested in this process."""
DIGEST_BYTES = 64 << 20
"""Bytes that one digest task reads, unless a single slice has more."""


class ResultReuse:
    """Finds results in artifacts of earlier jobs, for new jobs of the same owner.

    They are found as long as those jobs exist, and used only if they still exist when a task reads
    them.
    """

    def __init__(
        self,
        results: ResultRepository,
        jobs: JobRepository,
        store: Storage,
        documents: DocumentPool,
    ) -> None:
        self._results, self._jobs, self._store = results, jobs, store
        self._documents = documents

    async def with_results(
        self, job: Job, tasks: Sequence[CompressionTask], job_task: JobTask, workers: Workers
    ) -> list[CompressionTask]:
        """Return a job's tasks, each slice with its earlier result if it has one.

        Input bytes without a known digest are digested first, but only those of slices whose recipe
        has any result: others cannot have one.
        """
        owner, slices = job.owner, [item for task in tasks for item in task.slices]
        recipes = await asyncio.to_thread(_recipes, slices)
        results = await asyncio.to_thread(self._by_origin, owner, slices, recipes)
        unmatched = [index for index in range(len(slices)) if index not in results]
        unmatched_recipes = {recipes[index] for index in unmatched}
        candidates = await asyncio.to_thread(self._results.candidates, owner, unmatched_recipes)
        unmatched = [index for index in unmatched if recipes[index] in candidates]
        digests = await self._digests(
            [slices[index] for index in unmatched], job_task, workers, job
        )
        keys = {
            index: content_key(recipes[index], digest)
            for index, digest in zip(unmatched, digests, strict=True)
        }
        by_key = await asyncio.to_thread(self._results.by_content, owner, set(keys.values()))
        results |= {index: by_key[key] for index, key in keys.items() if key in by_key}
        return list(_with_results(tasks, results))

    def remember(self, job: Job, results: Sequence[Result]) -> None:
        """Store a job's results for later jobs; those of a deleted job are dropped."""
        try:
            self._results.remember(job.owner, job.id, results)
        except NotFound:
            return

    async def copy_twin(self, job: Job, prefix: str) -> Published | None:
        """Copy the artifact of a job with the same request; None if there is none.

        The report is read and written in another process, so that requests do not wait for it.
        """
        twin = await asyncio.to_thread(self._jobs.twin, job.id)
        if twin is None:
            return None
        source = job_folder(twin)
        try:
            size = await asyncio.to_thread(self._store.size_bytes, report_path(source))
            return await self._documents.run(
                DocumentClient(job.owner), size, copy_results, self._store.url, source, prefix
            )
        except (ObjectMissing, TooLarge, WorkerDied):  # then it is computed
            return None

    def _by_origin(
        self, owner: str, slices: Sequence[TensorSlice], recipes: Sequence[str]
    ) -> dict[int, StoredSlice]:
        keys = {
            index: key
            for index, item in enumerate(slices)
            if (key := origin_key(recipes[index], item)) is not None
        }
        by_key = self._results.by_origin(owner, set(keys.values()))
        return {index: by_key[key] for index, key in keys.items() if key in by_key}

    async def _digests(
        self, items: Sequence[TensorSlice], job_task: JobTask, workers: Workers, job: Job
    ) -> list[str]:
        """Return digests of the slices' bytes, in order; a few bytes are digested here."""
        if sum(item.size_bytes for item in items) <= LOCAL_DIGEST_BYTES:
            return await asyncio.to_thread(self._digest_here, items)
        tasks = [DigestTask(**dict(job_task), slices=batch) for batch in _batches(items)]
        digests: dict[int, Sequence[str]] = {}

        async def on_done(task: Task, answer: Answer) -> None:
            assert isinstance(answer, tuple)  # noqa: S101 - the result of a DigestTask
            digests[id(task)] = answer

        await workers.run_tasks(tasks, on_done, SlotRequest(job.owner, job.priority, job.id))
        return [digest for task in tasks for digest in digests[id(task)]]

    def _digest_here(self, items: Sequence[TensorSlice]) -> list[str]:
        store = verified_reader(self._store, items)
        return [Sources(store, store, store).content_sha256(item) for item in items]


def _recipes(items: Sequence[TensorSlice]) -> list[str]:
    return [recipe(item) for item in items]


def _batches(items: Sequence[TensorSlice]) -> Iterator[tuple[TensorSlice, ...]]:
    batch: list[TensorSlice] = []
    room = DIGEST_BYTES
    for item in items:
        if batch and item.size_bytes > room:
            yield tuple(batch)
            batch, room = [], DIGEST_BYTES
        batch.append(item)
        room -= item.size_bytes
    if batch:
        yield tuple(batch)


def _with_results(
    tasks: Sequence[CompressionTask], results: dict[int, StoredSlice]
) -> Iterator[CompressionTask]:
    index = 0
    for task in tasks:
        slices = []
        for item in task.slices:
            stored = results.get(index)
            slices.append(item.model_copy(update={"known": stored}) if stored else item)
            index += 1
        yield task.model_copy(update={"slices": tuple(slices)})
