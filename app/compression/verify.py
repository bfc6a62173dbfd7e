"""Prove that an artifact is what its report says, by reading it back against the source."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from palettery.app.artifacts.dtypes import NUMPY
from palettery.app.artifacts.reader import Artifact, Stored
from palettery.app.checkpoints.dense import array_view, dense_chunks, dense_size_bytes
from palettery.app.errors import InvalidArtifact
from palettery.app.storage.base import Reads
from palettery.kernels.metrics import errors
from palettery.schemas.checkpoint import Checkpoint, StoredTensor
from palettery.schemas.report import TensorReport

RELATIVE_SLACK = 1e-6
"""Between two sums of the same squares, added in another order."""


def verify(
    artifact: Artifact,
    tensors: Sequence[TensorReport],
    checkpoint: Checkpoint,
    source: Reads,
    check: Callable[[], None],
    threads: int | None = None,
) -> None:
    """Compare tensors of the artifact, as stored, with the source; `check` may end it.

    Kept tensors must have the same bytes; palettized ones must reconstruct to the error that the
    report states.

    Raises:
        InvalidArtifact: names the tensor that does not.
    """
    stored = {tensor.name: tensor for tensor in checkpoint.tensors}
    for said in tensors:
        check()
        tensor = stored[said.name]
        path = checkpoint.files[tensor.file].path
        if said.action == "kept":
            _check_bytes(artifact, said.name, source, path, tensor, check)
            continue
        rows, sums = _Rows(source, path, tensor), []
        for first, block in artifact.blocks(said.name, threads):
            check()
            sums.append(errors(rows.read(first, len(block)), block, threads, check).sse)
        sse = math.fsum(sums)
        if not math.isclose(sse, said.sse, rel_tol=RELATIVE_SLACK, abs_tol=1e-300):
            raise InvalidArtifact(
                f"{said.name}: the artifact as read back has a squared error of {sse:.9g}, "
                f"the kernel promised {said.sse:.9g}; the job can be retried"
            )


def _check_bytes(
    artifact: Artifact,
    name: str,
    source: Reads,
    path: str,
    tensor: StoredTensor,
    check: Callable[[], None],
) -> None:
    found: Stored | None = artifact.kept.get(name)
    if found is None or found.tensor.size_bytes != dense_size_bytes(tensor):
        raise InvalidArtifact(f"{name}: the artifact as read back lacks it")
    place = found.tensor.offset
    for theirs in dense_chunks(source, path, tensor):
        check()
        if artifact.storage.read(found.path, place, len(theirs)) != theirs:
            raise InvalidArtifact(f"{name}: the artifact as read back differs from the upload")
        place += len(theirs)


class _Rows:
    """Rows of a source tensor; one with strides is fetched once, whole."""

    def __init__(self, source: Reads, path: str, tensor: StoredTensor) -> None:
        self._source, self._path, self._tensor = source, path, tensor
        self._dtype = NUMPY[tensor.dtype]
        self._whole: NDArray[np.generic] | None = None
        if tensor.strides is not None:
            data = source.read(path, tensor.offset, tensor.size_bytes)
            self._whole = array_view(data, self._dtype, tensor.shape, tensor.strides)

    def read(self, first: int, rows: int) -> NDArray[np.generic]:
        if self._whole is not None:
            return self._whole[first : first + rows]
        row_bytes = math.prod(self._tensor.shape[1:]) * self._dtype.itemsize
        start = self._tensor.offset + first * row_bytes
        data = self._source.read(self._path, start, rows * row_bytes)
        return np.frombuffer(data, self._dtype).reshape(rows, *self._tensor.shape[1:])
