"""Read finished parts back: what each slice became and where its arrays lie."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter

from app.checkpoints.safetensors import read_header
from app.settings import Limits
from app.storage import Storage
from schemas.checkpoint import StoredTensor
from schemas.report import SliceOutcome
from schemas.tasks import CompressionTask, StoredSlice

Parts = Mapping[str, tuple[StoredSlice, ...]]
"""Tensor name -> its slices, rows in order."""

OUTCOMES = TypeAdapter(tuple[SliceOutcome, ...])
OUTCOMES_KEY = "outcomes"
"""The last tensor of a part: what became of its slices, as JSON bytes."""


def read_parts(store: Storage, tasks: Sequence[CompressionTask]) -> Parts:
    """Every slice of every part. Reads headers only."""
    found: dict[str, list[StoredSlice]] = defaultdict(list)
    for task in tasks:
        header = read_header(store, task.part_path, Limits())
        by_name = {tensor.name: tensor for tensor in header.tensors}
        said = by_name.pop(OUTCOMES_KEY)
        text = store.read(task.part_path, said.offset, said.size_bytes)
        outcomes = OUTCOMES.validate_json(bytes(text))
        arrays: dict[int, dict[str, StoredTensor]] = defaultdict(dict)
        for tensor in by_name.values():
            place, _, key = tensor.name.partition(".")
            arrays[int(place)][key] = tensor
        for number, outcome in enumerate(outcomes):
            found[outcome.name].append(
                StoredSlice(path=task.part_path, outcome=outcome, tensors=arrays[number])
            )
    return {
        name: tuple(sorted(slices, key=lambda part: part.outcome.first_row))
        for name, slices in found.items()
    }
