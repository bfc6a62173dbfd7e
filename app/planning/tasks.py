"""Tasks of a plan, of about equal bytes: small tensors together, huge ones split by rows."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from palettery.app.planning.tensor_rules import FLOAT_BYTES
from palettery.schemas.checkpoint import Checkpoint
from palettery.schemas.plan import Plan, PlannedTensor
from palettery.schemas.tasks import CompressionTask, StoredRows, TensorSlice

LEAST_TASKS: Final = 8
"""Tasks that even a small model is cut into, for parallel work and visible progress."""
SMALLEST_TASK_BYTES: Final = 4 << 20
"""Below this size the dispatch of a task costs more than its work."""


def cut_tasks(
    plan: Plan,
    checkpoint: Checkpoint,
    *,
    source_url: str,
    store_url: str,
    parts_prefix: str,
    task_bytes: int,
    cancel_path: str | None = None,
    digests: bool = False,
    sensitivities: Checkpoint | None = None,
    sensitivities_url: str | None = None,
) -> list[CompressionTask]:
    """Return the tasks that palettize a plan's tensors, largest first.

    Each has up to `task_bytes` of neighbouring bytes, or one slice that cannot be made smaller.
    The same plan and `task_bytes` give the same tasks, so parts of an earlier run stay valid.
    `sensitivities` have the names of the model's tensors.
    """
    weights = _TensorLocations(checkpoint)
    weighing = _TensorLocations(sensitivities) if sensitivities else None
    total = sum(planned.size_bytes for planned in plan.palettized())
    task_bytes = min(task_bytes, max(SMALLEST_TASK_BYTES, total // LEAST_TASKS))
    slices = [
        piece
        for planned in plan.palettized()
        for piece in _slices(planned, weights, weighing, task_bytes)
    ]
    slices.sort(key=lambda piece: (piece.path, piece.offset))
    filled = sorted(_fill(slices, task_bytes), key=_size_bytes, reverse=True)
    return [
        CompressionTask(
            index=index,
            source_url=source_url,
            store_url=store_url,
            sensitivities_url=sensitivities_url,
            part_path=f"{parts_prefix}/{index:06d}.safetensors",
            cancel_path=cancel_path,
            digests=digests,
            slices=tuple(pieces),
        )
        for index, pieces in enumerate(filled)
    ]


class _TensorLocations:
    """Tensors of a checkpoint, and the location of their bytes."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._files = checkpoint.files
        self._tensors = {tensor.name: tensor for tensor in checkpoint.tensors}

    def is_strided(self, name: str) -> bool:
        return self._tensors[name].strides is not None

    def rows(self, name: str, first: int, count: int) -> StoredRows:
        """Return the location of some rows of a tensor; a strided one is only read whole."""
        stored = self._tensors[name]
        file = self._files[stored.file]
        row_bytes = stored.size_bytes // stored.shape[0]
        whole = count == stored.shape[0]
        return StoredRows(
            dtype=stored.dtype,
            shape=(count, *stored.shape[1:]),
            strides=stored.strides,
            path=file.path,
            file_sha256=file.sha256,
            file_name=file.name,
            offset=stored.offset + first * row_bytes,
            size_bytes=stored.size_bytes if whole else count * row_bytes,
        )


def _slices(
    planned: PlannedTensor,
    weights: _TensorLocations,
    weighing: _TensorLocations | None,
    task_bytes: int,
) -> Iterator[TensorSlice]:
    assert planned.spec is not None  # noqa: S101 - a palettized tensor has both
    assert planned.clustering is not None  # noqa: S101
    name, rows = planned.name, planned.shape[0]
    weighing = weighing if planned.weighted else None
    strided = weights.is_strided(name) or (weighing is not None and weighing.is_strided(name))
    step = rows if strided else _rows_per_slice(planned, task_bytes)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        yield TensorSlice(
            **dict(weights.rows(name, first, count)),
            name=name,
            first_row=first,
            spec=planned.spec,
            clustering=planned.clustering,
            sensitivity=weighing.rows(name, first, count) if weighing else None,
        )


def _rows_per_slice(planned: PlannedTensor, task_bytes: int) -> int:
    """Return the rows of each slice but the last; all rows if the tensor stays whole.

    Slices are cut between groups, so that no LUT is shared; between vectors; and where the packed
    indices end on a byte, so that those of the slices can be joined end to end.
    """
    spec, clustering, rows = planned.spec, planned.clustering, planned.shape[0]
    assert spec is not None  # noqa: S101 - a palettized tensor has both
    assert clustering is not None  # noqa: S101
    if planned.size_bytes <= task_bytes:
        return rows
    if clustering.group_size is None or clustering.axis != 0:
        return rows
    row_values = math.prod(planned.shape[1:])
    byte_rows = 8 // math.gcd(8, row_values * spec.n_bits) * spec.cluster_dim
    unit = math.lcm(clustering.group_size, byte_rows)
    row_bytes = row_values * FLOAT_BYTES[planned.dtype]
    slices = math.ceil(rows * row_bytes / task_bytes)
    return math.ceil(rows / slices / unit) * unit


def _fill(slices: Sequence[TensorSlice], task_bytes: int) -> list[list[TensorSlice]]:
    """Group neighbouring slices, up to the size of a task."""
    filled: list[list[TensorSlice]] = []
    room = 0
    for piece in slices:
        if not filled or piece.size_bytes > room:
            filled.append([])
            room = task_bytes
        filled[-1].append(piece)
        room -= piece.size_bytes
    return filled


def _size_bytes(slices: Sequence[TensorSlice]) -> int:
    return sum(piece.size_bytes for piece in slices)
