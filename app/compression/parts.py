"""Finished parts: the outcome of each slice, and the location of its arrays."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter

from palettery.app.checkpoints.safetensors import read_header
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.schemas.checkpoint import StoredTensor
from palettery.schemas.report import SliceOutcome
from palettery.schemas.tasks import CompressionTask, StoredBytes, StoredSlice

Parts = Mapping[str, tuple[StoredSlice, ...]]
"""Tensor name -> its slices, rows in order."""

OUTCOMES = TypeAdapter(tuple[SliceOutcome, ...])
OUTCOMES_KEY, STATISTICS_KEY = "outcomes", "statistics"
"""Tensors at the end of a part: outcomes of its slices as JSON, and lines of their statistics."""


def read_parts(store: Storage, tasks: Sequence[CompressionTask]) -> Parts:
    """Return the slices of all parts; only headers are read."""
    slices_of: dict[str, list[StoredSlice]] = defaultdict(list)
    for task in tasks:
        header = read_header(store, task.part_path, Limits())
        by_name = {tensor.name: tensor for tensor in header.tensors}
        outcomes_tensor = by_name.pop(OUTCOMES_KEY)
        text = store.read(task.part_path, outcomes_tensor.offset, outcomes_tensor.size_bytes)
        outcomes = OUTCOMES.validate_json(bytes(text))
        statistics = by_name.pop(STATISTICS_KEY, None)
        offset = statistics.offset if statistics else 0
        arrays: dict[int, dict[str, StoredTensor]] = defaultdict(dict)
        for tensor in by_name.values():
            slice_number, _, key = tensor.name.partition(".")
            arrays[int(slice_number)][key] = tensor
        for number, outcome in enumerate(outcomes):
            line = None
            if outcome.statistics_bytes:
                size = outcome.statistics_bytes
                line = StoredBytes(path=task.part_path, offset=offset, size_bytes=size)
                offset += size
            slices_of[outcome.name].append(
                StoredSlice(
                    path=task.part_path, outcome=outcome, tensors=arrays[number], statistics=line
                )
            )
    return {
        name: tuple(sorted(slices, key=lambda part: part.outcome.first_row))
        for name, slices in slices_of.items()
    }
