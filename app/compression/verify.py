"""Verification of an artifact: it is read back and compared with the model and the report."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from palettery.app.artifacts.dtypes import NUMPY
from palettery.app.artifacts.palette_arrays import LocatedTensor
from palettery.app.artifacts.reader import Artifact
from palettery.app.checkpoints.dense import array_view, dense_chunks, dense_size_bytes
from palettery.app.errors import InvalidArtifact
from palettery.app.storage.base import ObjectReader
from palettery.kernels.metrics import errors
from palettery.schemas.checkpoint import Checkpoint, StoredTensor
from palettery.schemas.report import TensorReport

RELATIVE_SLACK = 1e-6
"""Tolerance between two sums of the same squares, added in another order."""


def verify(
    artifact: Artifact,
    tensors: Sequence[TensorReport],
    checkpoint: Checkpoint,
    source: ObjectReader,
    check_cancelled: Callable[[], None],
    threads: int | None = None,
) -> None:
    """Compare tensors of a stored artifact with the model.

    Kept tensors must have the same bytes. Palettized ones must have the squared error of the
    report.

    Raises:
        InvalidArtifact: names the tensor that differs.
    """
    originals = {original.name: original for original in checkpoint.tensors}
    for report in tensors:
        check_cancelled()
        original = originals[report.name]
        path = checkpoint.files[original.file].path
        if report.action == "kept":
            _check_bytes(artifact, report.name, source, path, original, check_cancelled)
            continue
        rows, sums = _SourceRows(source, path, original), []
        for first, block in artifact.blocks(report.name, threads):
            check_cancelled()
            sums.append(errors(rows.read(first, len(block)), block, threads, check_cancelled).sse)
        sse = math.fsum(sums)
        if not math.isclose(sse, report.sse, rel_tol=RELATIVE_SLACK, abs_tol=1e-300):
            raise InvalidArtifact(
                f"{report.name}: the artifact as read back has a squared error of {sse:.9g}, "
                f"the kernel promised {report.sse:.9g}; the job can be retried"
            )


def _check_bytes(
    artifact: Artifact,
    name: str,
    source: ObjectReader,
    path: str,
    tensor: StoredTensor,
    check_cancelled: Callable[[], None],
) -> None:
    located: LocatedTensor | None = artifact.kept_tensors.get(name)
    if located is None or located.tensor.size_bytes != dense_size_bytes(tensor):
        raise InvalidArtifact(f"{name}: the artifact as read back lacks it")
    offset = located.tensor.offset
    for chunk in dense_chunks(source, path, tensor):
        check_cancelled()
        if artifact.storage.read(located.path, offset, len(chunk)) != chunk:
            raise InvalidArtifact(f"{name}: the artifact as read back differs from the upload")
        offset += len(chunk)


class _SourceRows:
    """Rows of a source tensor; a strided one is read once, as a whole."""

    def __init__(self, source: ObjectReader, path: str, tensor: StoredTensor) -> None:
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
