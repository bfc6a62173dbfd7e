"""Size of the artifact of a plan, before any work."""

import json
import math
from collections.abc import Iterator, Sequence

from palettery.app.artifacts.writer import TensorEntry, header, sort_entries
from palettery.app.checkpoints.dtypes import DTYPE_BITS
from palettery.app.compression.artifact_files import tensors_metadata
from palettery.app.compression.layout import build_index, fill_files
from palettery.app.compression.report import ArtifactTensor
from palettery.app.planning.exports import palettized_weight
from palettery.schemas.artifact import PalettizedWeight
from palettery.schemas.checkpoint import StoredTensor
from palettery.schemas.config import PalettizationSpec
from palettery.schemas.plan import PlannedTensor
from palettery.schemas.tasks import JobRequest

_QUANTIZED = {"int8": "I8", "uint8": "U8", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
_SEPARATORS = (",", ":")


def planned_size_bytes(request: JobRequest) -> int:
    """Return the size of the artifact's files, headers included, if no planned palette is given up.

    It is an upper bound if some tensors may be sparse.
    """
    tensors_by_name = {tensor.name: tensor for tensor in request.checkpoint.tensors}
    files = fill_files(
        [_piece(planned, tensors_by_name[planned.name]) for planned in request.plan.tensors]
    )
    total = 0
    for pieces in files.values():
        entries = sort_entries(entry for piece in pieces for entry in piece.entries)
        tensors = [(piece.planned, _weight(piece.planned)) for piece in pieces]
        total += len(header(entries, tensors_metadata(request, tensors)))
        total += sum(entry.size_bytes for entry in entries)
    return total if len(files) == 1 else total + len(build_index(files))


def header_bytes(planned: PlannedTensor, stored: StoredTensor, max_offset: int) -> int:
    """Return an upper bound of a tensor's bytes in a header with offsets up to `max_offset`."""
    entries = {
        entry.name: {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [max_offset, max_offset],
        }
        for entry in _entries(planned, stored)
    }
    text = json.dumps(entries, separators=_SEPARATORS, ensure_ascii=False)
    if (weight := _weight(planned)) is not None:
        description = {planned.name: json.loads(weight.model_dump_json())}
        inner = json.dumps(description, separators=_SEPARATORS, ensure_ascii=False)
        text += json.dumps(inner, ensure_ascii=False)
    return len(text.encode())


def _piece(planned: PlannedTensor, stored: StoredTensor) -> ArtifactTensor:
    return ArtifactTensor(planned, (), tuple(_entries(planned, stored)))


def _weight(planned: PlannedTensor) -> PalettizedWeight | None:
    """Return the longest description of a tensor in the metadata; None if it is kept."""
    if planned.action == "keep" or planned.spec is None:
        return None
    may_be_sparse = planned.spec.sparsity_detection_threshold is not None
    return palettized_weight(planned, math.prod(planned.shape) if may_be_sparse else None)


def _entries(planned: PlannedTensor, stored: StoredTensor) -> Sequence[TensorEntry]:
    """Return the entries of a tensor, without its bytes.

    The mask of a tensor that may be sparse is as large as its largest size requires.
    """
    if planned.action == "keep" or planned.spec is None:
        return [_entry(stored.name, stored.dtype, stored.shape)]
    entries = list(_palette_entries(planned, planned.spec))
    if planned.spec.sparsity_detection_threshold is not None:
        rest = max(0, planned.predicted_bytes - sum(entry.size_bytes for entry in entries))
        entries.append(_entry(f"{planned.name}.mask", "U8", (rest,)))
    return entries


def _palette_entries(planned: PlannedTensor, spec: PalettizationSpec) -> Iterator[TensorEntry]:
    """Yield the entries of a palettized tensor that is not sparse."""
    name, shape, rank = planned.name, planned.shape, len(planned.shape)
    assert planned.clustering is not None  # noqa: S101 - a palettized tensor has one
    groups = [1] * rank
    groups[planned.clustering.axis] = planned.groups
    indices = (math.prod(shape) // spec.cluster_dim * spec.n_bits + 7) // 8
    yield _entry(f"{name}.indices", "U8", (indices,))
    dtype = planned.dtype if spec.lut_qspec is None else _QUANTIZED[spec.lut_qspec.dtype]
    yield _entry(f"{name}.lut", dtype, (*groups, 2**spec.n_bits, spec.cluster_dim))
    if spec.lut_qspec is not None:
        yield _entry(f"{name}.lut_scale", "F32", (*groups, 1, 1))
        if dtype in ("I8", "U8"):
            yield _entry(f"{name}.lut_zero_point", dtype, (*groups, 1, 1))
    if spec.enable_per_channel_scale:
        yield _entry(f"{name}.per_channel_scale", "F32", (shape[0], *[1] * (rank - 1)))


def _entry(name: str, dtype: str, shape: tuple[int, ...]) -> TensorEntry:
    size_bytes = math.prod(shape) * DTYPE_BITS[dtype] // 8
    return TensorEntry(name, dtype, shape, size_bytes, tuple)
