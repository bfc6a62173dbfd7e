"""Run one task: fetch its bytes, palettize, write one part."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_hexdigest

from palettery.app.artifacts.dtypes import NUMPY
from palettery.app.artifacts.writer import Entry, arranged, array_entry, stream
from palettery.app.compression.cancellation import StopCheck
from palettery.app.compression.palettize import Palettized, palettize
from palettery.app.compression.parts import OUTCOMES, OUTCOMES_KEY, STATISTICS_KEY
from palettery.app.compression.statistics import renamed
from palettery.app.errors import ObjectMissing
from palettery.app.storage.base import Reads, Storage
from palettery.app.storage.checked_reads import CheckedFile, CheckedReads
from palettery.app.storage.open import shared_storage
from palettery.schemas.report import SliceOutcome
from palettery.schemas.tasks import CompressionTask, TensorSlice

ROOM_BYTES = 24 << 10
"""For the outcome of a slice that is known only once its indices were written, or for its line.

The longest names alone take 4,000 bytes, the most statistics some 11,000.
"""


log = logging.getLogger(__name__)


def run_task(task: CompressionTask, threads: int | None = None) -> None:
    """Palettize a task's slices into its part file; the part appears whole or not at all.

    One that is there is left alone: a worker that died right behind it could not say so. `threads`
    None uses every core.

    Raises:
        Cancelled: see `StopCheck`.
        InvalidSensitivities: some are negative or not finite. Non-finite weights are kept as they
            are, for such is the model; a bad sensitivity is bad input, and an artifact without its
            say would not be what was asked for.
    """
    store = shared_storage(task.store_url)
    if store.exists(task.part_path):
        return
    source = beside = _reads(task, task.source_url)
    if task.sensitivities_url:
        beside = _reads(task, task.sensitivities_url)
    stop = StopCheck(store, task.cancel_path)
    slices: list[Palettized] = []
    for item in task.slices:
        stop()
        known = _known(store, item) if item.known else None
        slices.append(known or palettize(source, beside, item, task.digests, threads, stop))
    entries = [*_entries(slices), _outcomes(slices), _statistics(slices)]
    store.write(task.part_path, stream(entries, {}))


def _reads(task: CompressionTask, url: str) -> Reads:
    """Return a store to read from; uploads, which lie where the job does, are checked."""
    # Damaged uploads are moved away. Files of another store are the user's own.
    store = shared_storage(url)
    return checked(store, task.slices) if url == task.store_url else store


def checked(store: Storage, items: Sequence[TensorSlice]) -> CheckedReads:
    """A store whose files the slices, and their sensitivities, are read from."""
    rows = [rows for item in items for rows in (item, item.sensitivity) if rows is not None]
    return CheckedReads(
        store,
        {
            each.path: CheckedFile(each.file_sha256, each.file_name or each.path)
            for each in rows
            if each.file_sha256 is not None
        },
    )


def _known(store: Storage, item: TensorSlice) -> Palettized | None:
    """The result of an earlier job; None when it is gone, as that job may be."""
    assert item.known is not None  # noqa: S101 - callers checked
    path, outcome = item.known.path, item.known.outcome
    arrays: dict[str, NDArray[np.generic]] = {}
    line, statistics = item.known.statistics, b""
    try:
        for key, tensor in item.known.tensors.items():
            data = store.read(path, tensor.offset, tensor.size_bytes)
            digest = xxh3_64_hexdigest(data)
            if outcome.array_digests.get(key, digest) != digest:
                log.warning("%s is damaged; %s is computed anew", path, item.name)
                return None
            arrays[key] = np.frombuffer(data, NUMPY[tensor.dtype]).reshape(tensor.shape)
        if line is not None:
            statistics = renamed(bytes(store.read(line.path, line.offset, line.size_bytes)), item)
    except ObjectMissing:
        return None
    here = {"name": item.name, "first_row": item.first_row, "reused": True}
    return Palettized(arrays, outcome.model_copy(update=here), statistics)


def _entries(slices: Sequence[Palettized]) -> list[Entry]:
    return arranged(
        _digested(f"{number}.{made.name}", made, found)
        for number, found in enumerate(slices)
        for made in (*itertools.starmap(array_entry, found.arrays.items()), *found.streamed)
    )


def _digested(name: str, made: Entry, found: Palettized) -> Entry:
    """An array under its name in the part, digested while it is written."""
    found.digests[made.name] = xxh3_64_hexdigest(b"")  # as long as what it will be

    def chunks() -> Iterator[bytes | memoryview]:
        digest = xxh3_64()
        for chunk in made.chunks():
            digest.update(chunk)
            yield chunk
        found.digests[made.name] = digest.hexdigest()

    return replace(made, name=name, chunks=chunks)


def _outcomes(slices: Sequence[Palettized]) -> Entry:
    """What became of the slices, written last: of some it is not known before."""
    known = OUTCOMES.dump_json(tuple(_outcome(found) for found in slices if found.outcome))
    size = len(known) + ROOM_BYTES * sum(found.outcome is None for found in slices)

    def chunks() -> Iterator[bytes]:
        yield OUTCOMES.dump_json(tuple(map(_outcome, slices))).ljust(size)

    return Entry(OUTCOMES_KEY, "U8", (size,), size, chunks)


def _outcome(found: Palettized) -> SliceOutcome:
    assert found.outcome is not None  # noqa: S101 - all entries were written
    known = {"statistics_bytes": _line_bytes(found), "array_digests": dict(found.digests)}
    return found.outcome.model_copy(update=known)


def _statistics(slices: Sequence[Palettized]) -> Entry:
    """A line for each slice that has any, written last, too."""
    size = sum(map(_line_bytes, slices))

    def chunks() -> Iterator[bytes]:
        for found in slices:
            yield found.statistics[:-1].ljust(_line_bytes(found) - 1) + found.statistics[-1:]

    return Entry(STATISTICS_KEY, "U8", (size,), size, chunks)


def _line_bytes(found: Palettized) -> int:
    return ROOM_BYTES if found.streamed else len(found.statistics)
