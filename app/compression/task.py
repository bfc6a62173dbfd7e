"""Compression task: read the bytes of some slices, palettize them, and write one part."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_hexdigest

from palettery.app.artifacts.dtypes import NUMPY
from palettery.app.artifacts.writer import TensorEntry, array_entry, sort_entries, stream
from palettery.app.compression.cancellation import CancellationCheck
from palettery.app.compression.palettize import Palettized, is_sparse_tensor, palettize
from palettery.app.compression.parts import OUTCOMES, OUTCOMES_KEY, STATISTICS_KEY
from palettery.app.compression.sources import Sources
from palettery.app.compression.statistics import rename_line
from palettery.app.errors import ObjectMissing
from palettery.app.storage.base import ObjectReader, Storage
from palettery.app.storage.open import shared_storage
from palettery.app.storage.verified_reader import CheckedFile, VerifiedReader
from palettery.schemas.report import SliceOutcome
from palettery.schemas.tasks import CompressionTask, TensorSlice, TensorToScore

RESERVED_BYTES = 24 << 10
"""Space for an outcome or a line of statistics that is known only after the indices are written.

The longest names take 4,000 bytes, the longest statistics some 11,000.
"""


log = logging.getLogger(__name__)


def run_task(task: CompressionTask, threads: int | None = None) -> None:
    """Palettize a task's slices into its part file, by an atomic write.

    An existing part is left unchanged: a worker may have died right after writing it. `threads`
    None uses every core.

    Raises:
        Cancelled: see `CancellationCheck`.
        InvalidSensitivities: some are negative or not finite. Non-finite weights belong to the
            model and are kept; bad sensitivities are bad input, which must not be ignored.
    """
    store = shared_storage(task.store_url)
    if store.exists(task.part_path):
        return
    sources = _sources(task)
    check_cancelled = CancellationCheck(store, task.cancel_path)
    slices: list[Palettized] = []
    for item in task.slices:
        check_cancelled()
        slices.append(
            (_reusable_result(store, item) if item.known else None)
            or palettize(
                sources,
                item,
                task.digests,
                threads,
                check_cancelled,
                is_sparse_tensor(task.source_url, item, check_cancelled),
            )
        )
    entries = [*_entries(slices), _outcomes(slices), _statistics(slices)]
    store.write(task.part_path, stream(entries, {}))


def _sources(task: CompressionTask) -> Sources:
    model = _reader(task, task.source_url)
    urls = (task.sensitivities_url, task.second_moments_url)
    return Sources(model, *(_reader(task, url) if url else model for url in urls))


def _reader(task: CompressionTask, url: str) -> ObjectReader:
    """Return a reader of a store; it verifies uploads, which share the store of the job."""
    # Damaged uploads are moved away. Files of another store are the user's own.
    store = shared_storage(url)
    return verified_reader(store, task.slices) if url == task.store_url else store


def verified_reader(store: Storage, items: Sequence[TensorSlice | TensorToScore]) -> VerifiedReader:
    """Return a reader that verifies all files that tensors are computed from."""
    return VerifiedReader(
        store,
        {
            rows.path: CheckedFile(rows.file_sha256, rows.file_name or rows.path)
            for item in items
            for rows in item.inputs()
            if rows.file_sha256 is not None
        },
    )


def _reusable_result(store: Storage, item: TensorSlice) -> Palettized | None:
    """Return the result of an earlier job; None if it is damaged, or deleted with that job."""
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
            statistics = rename_line(
                bytes(store.read(line.path, line.offset, line.size_bytes)), item
            )
    except ObjectMissing:
        return None
    update = {"name": item.name, "first_row": item.first_row, "reused": True}
    return Palettized(arrays, outcome.model_copy(update=update), statistics)


def _entries(slices: Sequence[Palettized]) -> list[TensorEntry]:
    return sort_entries(
        _with_digest(f"{number}.{entry.name}", entry, result)
        for number, result in enumerate(slices)
        for entry in (*itertools.starmap(array_entry, result.arrays.items()), *result.streamed)
    )


def _with_digest(name: str, entry: TensorEntry, result: Palettized) -> TensorEntry:
    """Return an entry under its name in the part, with a digest computed while it is written."""
    result.digests[entry.name] = xxh3_64_hexdigest(b"")  # placeholder of the same length

    def chunks() -> Iterator[bytes | memoryview]:
        digest = xxh3_64()
        for chunk in entry.chunks():
            digest.update(chunk)
            yield chunk
        result.digests[entry.name] = digest.hexdigest()

    return replace(entry, name=name, chunks=chunks)


def _outcomes(slices: Sequence[Palettized]) -> TensorEntry:
    """Return the entry of all outcomes, written last, since some are known only then."""
    text = OUTCOMES.dump_json(
        tuple(_complete_outcome(result) for result in slices if result.outcome)
    )
    size = len(text) + RESERVED_BYTES * sum(result.outcome is None for result in slices)

    def chunks() -> Iterator[bytes]:
        yield OUTCOMES.dump_json(tuple(map(_complete_outcome, slices))).ljust(size)

    return TensorEntry(OUTCOMES_KEY, "U8", (size,), size, chunks)


def _complete_outcome(result: Palettized) -> SliceOutcome:
    assert result.outcome is not None  # noqa: S101 - all entries were written
    update = {"statistics_bytes": _line_bytes(result), "array_digests": dict(result.digests)}
    return result.outcome.model_copy(update=update)


def _statistics(slices: Sequence[Palettized]) -> TensorEntry:
    """Return the entry of all lines of statistics; like the outcomes, it is written last."""
    size = sum(map(_line_bytes, slices))

    def chunks() -> Iterator[bytes]:
        for result in slices:
            yield result.statistics[:-1].ljust(_line_bytes(result) - 1) + result.statistics[-1:]

    return TensorEntry(STATISTICS_KEY, "U8", (size,), size, chunks)


def _line_bytes(result: Palettized) -> int:
    """Return the size of a line of statistics, which is padded if it is not known in advance."""
    return RESERVED_BYTES if result.streamed else len(result.statistics)
