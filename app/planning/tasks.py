"""Tasks of a plan, of about equal bytes: small tensors together, huge ones split by rows."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from palettery.app.planning.tensor_rules import FLOAT_BYTES
from palettery.schemas.checkpoint import Checkpoint
from palettery.schemas.plan import Plan, PlannedTensor
from palettery.schemas.tasks import CompressionTask, StoredRows, TensorSlice

MIN_TASKS: Final = 8
"""Minimum number of tasks, unless they would be tiny, for parallel work and visible progress."""
SMALLEST_TASK_BYTES: Final = 4 << 20
"""Below this size the dispatch of a task costs more than its work."""
Rows = TypeVar("Rows", bound=StoredRows)


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
    second_moments: Checkpoint | None = None,
    second_moments_url: str | None = None,
) -> list[CompressionTask]:
    """Return the tasks that palettize a plan's tensors, largest first.

    Each has up to `task_bytes` of neighbouring bytes, or one slice that cannot be made smaller.
    The same plan and `task_bytes` give the same tasks, so parts of an earlier run stay valid.
    `sensitivities` and `second_moments` have the names of the model's tensors.
    """
    moments = _TensorLocations(second_moments) if second_moments else None
    weights = _TensorLocations(checkpoint)
    sensitivity_rows = _TensorLocations(sensitivities) if sensitivities else None
    task_bytes = choose_task_bytes(plan.palettized(), task_bytes)
    slices = [
        piece
        for planned in plan.palettized()
        for piece in _slices(planned, weights, sensitivity_rows, moments, task_bytes)
    ]
    slices.sort(key=lambda piece: (piece.path, piece.offset))
    filled = sorted(group_slices(slices, task_bytes), key=_size_bytes, reverse=True)
    return [
        CompressionTask(
            index=index,
            source_url=source_url,
            store_url=store_url,
            sensitivities_url=sensitivities_url,
            second_moments_url=second_moments_url,
            part_path=f"{parts_prefix}/{index:06d}.safetensors",
            cancel_path=cancel_path,
            digests=digests,
            slices=tuple(pieces),
        )
        for index, pieces in enumerate(filled)
    ]


def with_shared_parts(tasks: Sequence[CompressionTask], parts_prefix: str) -> list[CompressionTask]:
    """Return tasks of one slice each, whose parts are named by all that they are computed from.

    Plans of one model can share a folder of such parts: a slice that another plan has is done.
    """
    alone = [(task, piece) for task in tasks for piece in task.slices]
    return [
        task.model_copy(
            update={
                "index": index,
                "part_path": f"{parts_prefix}/{_sha256(piece)}.safetensors",
                "slices": (piece,),
            }
        )
        for index, (task, piece) in enumerate(alone)
    ]


def _sha256(piece: TensorSlice) -> str:
    return hashlib.sha256(piece.model_dump_json().encode()).hexdigest()


def choose_task_bytes(tensors: Sequence[PlannedTensor | StoredRows], max_bytes: int) -> int:
    """Return the size of one task, small enough that even a small model has several tasks."""
    total = sum(tensor.size_bytes for tensor in tensors)
    return min(max_bytes, max(SMALLEST_TASK_BYTES, total // MIN_TASKS))


class _TensorLocations:
    """Tensors of a checkpoint, and the location of their bytes."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._files = checkpoint.files
        self._tensors = {tensor.name: tensor for tensor in checkpoint.tensors}

    def is_strided(self, name: str) -> bool:
        return self._tensors[name].strides is not None

    def groups(self, name: str) -> int:
        """Return the number of groups of second moments."""
        shape = self._tensors[name].shape
        return shape[0] if len(shape) > 2 else 1

    def second_moment_rows(self, name: str, first: int, count: int, rows: int) -> StoredRows:
        """Return the location of the second moments for `count` of all `rows`, from `first`."""
        groups = self.groups(name)
        if groups == 1:
            return self.rows(name, 0, self._tensors[name].shape[0])
        rows_per_group = rows // groups
        return self.rows(name, first // rows_per_group, count // rows_per_group)

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
    sensitivities: _TensorLocations | None,
    moments: _TensorLocations | None,
    task_bytes: int,
) -> Iterator[TensorSlice]:
    assert planned.spec is not None  # noqa: S101 - a palettized tensor has both
    assert planned.clustering is not None  # noqa: S101
    name, rows = planned.name, planned.shape[0]
    sensitivities = sensitivities if planned.weighted else None
    moments = moments if planned.feedback else None
    groups = moments.groups(name) if moments else 1
    strided = weights.is_strided(name) or (
        sensitivities is not None and sensitivities.is_strided(name)
    )
    step = rows if strided else _rows_per_slice(planned, task_bytes, rows // groups)
    # Whether a tensor is sparse depends on all of its values.
    needs_whole = step < rows and planned.spec.sparsity_detection_threshold is not None
    for first in range(0, rows, step):
        count = min(step, rows - first)
        yield TensorSlice(
            **dict(weights.rows(name, first, count)),
            name=name,
            first_row=first,
            spec=planned.spec,
            clustering=planned.clustering,
            whole=weights.rows(name, 0, rows) if needs_whole else None,
            sensitivity=sensitivities.rows(name, first, count) if sensitivities else None,
            second_moment=moments.second_moment_rows(name, first, count, rows) if moments else None,
        )


def _rows_per_slice(planned: PlannedTensor, task_bytes: int, moment_rows: int) -> int:
    """Return the rows of each slice but the last; all rows if the tensor stays whole.

    Slices are cut between groups, so that no LUT is shared; between vectors; between runs of
    `moment_rows` rows with the same second moments; and where packed indices and masks end on a
    byte, so that those of the slices can be concatenated.
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
    mask_rows = 8 // math.gcd(8, row_values)
    if spec.sparsity_detection_threshold is None:
        mask_rows = 1
    unit_rows = 1 if moment_rows == rows else moment_rows
    unit = math.lcm(clustering.group_size, byte_rows, mask_rows, unit_rows)
    row_bytes = row_values * FLOAT_BYTES[planned.dtype]
    slices = math.ceil(rows * row_bytes / task_bytes)
    return math.ceil(rows / slices / unit) * unit


def group_slices(slices: Sequence[Rows], task_bytes: int) -> list[list[Rows]]:
    """Return the slices in groups of neighbours, each of up to `task_bytes` or of one slice."""
    filled: list[list[Rows]] = []
    remaining_bytes = 0
    for piece in slices:
        if not filled or piece.size_bytes > remaining_bytes:
            filled.append([])
            remaining_bytes = task_bytes
        filled[-1].append(piece)
        remaining_bytes -= piece.size_bytes
    return filled


def _size_bytes(slices: Sequence[StoredRows]) -> int:
    return sum(piece.size_bytes for piece in slices)
