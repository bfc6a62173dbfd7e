"""Do nothing twice: find results of earlier jobs, by where bytes lie and by what they are."""

import asyncio
from collections.abc import Iterator, Sequence

from palettery.app.compression.assemble import report_path
from palettery.app.compression.job_folder import job_folder
from palettery.app.compression.palettize import content_sha256
from palettery.app.compression.result_keys import content_key, origin_key, recipe
from palettery.app.compression.task import checked
from palettery.app.errors import NotFound, ObjectMissing, TooLarge, WorkerDied
from palettery.app.execution.fair_slots import SlotRequest
from palettery.app.execution.fanout import Workers
from palettery.app.jobs.repository import JobRepository
from palettery.app.jobs.result_repository import ResultRepository
from palettery.app.jobs.result_takeover import take_over
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

FEW_BYTES = 4 << 20
"""That are digested here."""
DIGEST_BYTES = 64 << 20
"""That one task reads to digest, or one slice that has more."""


class ResultReuse:
    """Results that lie in artifacts of earlier jobs, for new jobs of the same owner to take.

    They are found only as long as those jobs are kept, and taken only if they are still there when
    a task wants them.
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

    async def with_known(
        self, job: Job, tasks: Sequence[CompressionTask], around: JobTask, workers: Workers
    ) -> list[CompressionTask]:
        """A job's tasks, each slice with its known result where there is one.

        Bytes of a file never seen before are digested first, but only those of slices whose recipe
        has made any result: no others can have one.
        """
        owner, items = job.owner, [item for task in tasks for item in task.slices]
        recipes = await asyncio.to_thread(_recipes, items)
        known = await asyncio.to_thread(self._by_origin, owner, items, recipes)
        open_ = [place for place in range(len(items)) if place not in known]
        wanted = {recipes[place] for place in open_}
        made = await asyncio.to_thread(self._results.candidates, owner, wanted)
        worth = [place for place in open_ if recipes[place] in made]
        unseen = [items[place] for place in worth]
        digests = await self._digests(unseen, around, workers, job)
        keys = {
            place: content_key(recipes[place], digest)
            for place, digest in zip(worth, digests, strict=True)
        }
        found = await asyncio.to_thread(self._results.by_content, owner, set(keys.values()))
        known |= {place: found[key] for place, key in keys.items() if key in found}
        return list(_told(tasks, known))

    def remember(self, job: Job, results: Sequence[Result]) -> None:
        """Have later jobs find a job's results; one that was deleted meanwhile has none."""
        try:
            self._results.remember(job.owner, job.id, results)
        except NotFound:
            return

    async def take_over_twin(self, job: Job, prefix: str) -> Published | None:
        """Make the artifact of a job with the very same request this one's; None if there is none.

        A report is read and written in another process: requests would wait for it.
        """
        twin = await asyncio.to_thread(self._jobs.twin, job.id)
        if twin is None:
            return None
        theirs = job_folder(twin)
        try:
            size = await asyncio.to_thread(self._store.size_bytes, report_path(theirs))
            return await self._documents.run(
                DocumentClient(job.owner), size, take_over, self._store.url, theirs, prefix
            )
        except (ObjectMissing, TooLarge, WorkerDied):  # then it is done anew
            return None

    def _by_origin(
        self, owner: str, items: Sequence[TensorSlice], recipes: Sequence[str]
    ) -> dict[int, StoredSlice]:
        keys = {
            place: key
            for place, item in enumerate(items)
            if (key := origin_key(recipes[place], item)) is not None
        }
        found = self._results.by_origin(owner, set(keys.values()))
        return {place: found[key] for place, key in keys.items() if key in found}

    async def _digests(
        self, items: Sequence[TensorSlice], around: JobTask, workers: Workers, job: Job
    ) -> list[str]:
        """Digests of the slices' bytes, in their order; a few are not worth a worker's turn."""
        if sum(item.size_bytes for item in items) <= FEW_BYTES:
            return await asyncio.to_thread(self._digested, items)
        tasks = [DigestTask(**dict(around), slices=batch) for batch in _batches(items)]
        digests: dict[int, Sequence[str]] = {}

        async def on_done(task: Task, answer: Answer) -> None:
            assert isinstance(answer, tuple)  # noqa: S101 - what a DigestTask gives
            digests[id(task)] = answer

        await workers.run_tasks(tasks, on_done, SlotRequest(job.owner, job.priority, job.id))
        return [digest for task in tasks for digest in digests[id(task)]]

    def _digested(self, items: Sequence[TensorSlice]) -> list[str]:
        store = checked(self._store, items)
        return [content_sha256(store, store, item) for item in items]


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


def _told(
    tasks: Sequence[CompressionTask], known: dict[int, StoredSlice]
) -> Iterator[CompressionTask]:
    place = 0
    for task in tasks:
        items = []
        for item in task.slices:
            stored = known.get(place)
            items.append(item.model_copy(update={"known": stored}) if stored else item)
            place += 1
        yield task.model_copy(update={"slices": tuple(items)})
