"""Read finished parts back: what each slice became and where its arrays lie."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from app.checkpoints.safetensors import read_header
from app.settings import Limits
from app.storage import Storage
from schemas.checkpoint import StoredTensor
from schemas.report import SliceOutcome
from schemas.tasks import CompressionTask

_OUTCOMES = TypeAdapter(tuple[SliceOutcome, ...])


@dataclass(frozen=True)
class PartSlice:
    """One slice of one tensor in a part file."""

    path: str
    outcome: SliceOutcome
    tensors: Mapping[str, StoredTensor]
    """`indices`, `lut` and so on -> where the array lies; empty when the slice was kept."""


def read_parts(
    store: Storage, tasks: Sequence[CompressionTask]
) -> dict[str, tuple[PartSlice, ...]]:
    """Every slice of every part by tensor name, rows in order. Reads headers only."""
    found: dict[str, list[PartSlice]] = defaultdict(list)
    for task in tasks:
        header = read_header(store, task.part_path, Limits())
        outcomes = _OUTCOMES.validate_python(json.loads(header.metadata["outcomes"]))
        arrays: dict[int, dict[str, StoredTensor]] = defaultdict(dict)
        for tensor in header.tensors:
            place, _, key = tensor.name.partition(".")
            arrays[int(place)][key] = tensor
        for number, outcome in enumerate(outcomes):
            found[outcome.name].append(PartSlice(task.part_path, outcome, arrays[number]))
    return {
        name: tuple(sorted(slices, key=lambda part: part.outcome.first_row))
        for name, slices in found.items()
    }
