"""Cut a plan into tasks of roughly equal bytes: small tensors together, huge ones along rows."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from app.planning.decide import FLOAT_BYTES
from schemas.checkpoint import Checkpoint, StoredTensor
from schemas.plan import Plan, PlannedTensor
from schemas.tasks import CompressionTask, TensorSlice

LEAST_TASKS: Final = 8
"""Tasks that even a small model is cut into, so that workers share it and progress is seen."""
SMALLEST_TASK_BYTES: Final = 4 << 20
"""Below this a task costs more to hand out than to split."""


def cut(
    plan: Plan,
    checkpoint: Checkpoint,
    *,
    source_url: str,
    store_url: str,
    parts_prefix: str,
    task_bytes: int,
    cancel_path: str | None = None,
) -> list[CompressionTask]:
    """The tasks that palettize what the plan says, largest first.

    Each takes up to `task_bytes` of neighbouring bytes, or one slice that cannot be made smaller.
    The same plan and `task_bytes` give the same tasks, so parts of an earlier run stay valid.
    """
    stored = {tensor.name: tensor for tensor in checkpoint.tensors}
    total = sum(planned.size_bytes for planned in plan.palettized())
    task_bytes = min(task_bytes, max(SMALLEST_TASK_BYTES, total // LEAST_TASKS))
    slices = [
        piece
        for planned in plan.palettized()
        for piece in _slices(planned, stored[planned.name], checkpoint, task_bytes)
    ]
    slices.sort(key=lambda piece: (piece.path, piece.offset))
    filled = sorted(_fill(slices, task_bytes), key=_size_bytes, reverse=True)
    return [
        CompressionTask(
            index=index,
            source_url=source_url,
            store_url=store_url,
            part_path=f"{parts_prefix}/{index:06d}.safetensors",
            cancel_path=cancel_path,
            slices=tuple(pieces),
        )
        for index, pieces in enumerate(filled)
    ]


def _slices(
    planned: PlannedTensor, stored: StoredTensor, checkpoint: Checkpoint, task_bytes: int
) -> Iterator[TensorSlice]:
    assert planned.spec is not None  # noqa: S101 - a palettized tensor has both
    assert planned.clustering is not None  # noqa: S101
    rows, step = planned.shape[0], _rows_per_slice(planned, stored, task_bytes)
    row_bytes = stored.size_bytes // rows
    for first in range(0, rows, step):
        count = min(step, rows - first)
        whole = count == rows
        yield TensorSlice(
            name=planned.name,
            dtype=planned.dtype,
            shape=(count, *planned.shape[1:]),
            strides=stored.strides,
            path=checkpoint.files[stored.file].path,
            offset=stored.offset + first * row_bytes,
            size_bytes=stored.size_bytes if whole else count * row_bytes,
            first_row=first,
            spec=planned.spec,
            clustering=planned.clustering,
        )


def _rows_per_slice(planned: PlannedTensor, stored: StoredTensor, task_bytes: int) -> int:
    """Rows of each slice but the last; all rows when the tensor stays whole.

    Slices are cut between groups, so that no LUT is shared; between vectors; and where the packed
    indices end on a byte, so that those of the slices can be joined end to end.
    """
    spec, clustering, rows = planned.spec, planned.clustering, planned.shape[0]
    assert spec is not None  # noqa: S101 - a palettized tensor has both
    assert clustering is not None  # noqa: S101
    if stored.size_bytes <= task_bytes or stored.strides is not None:
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
    """Neighbours together, up to the size of a task."""
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
