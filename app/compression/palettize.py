"""Palettization of one slice of a tensor: whole in memory, or in blocks of rows if it is huge."""

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from palettery import kernels
from palettery.app.artifacts.dtypes import NUMPY
from palettery.app.artifacts.writer import Chunks, TensorEntry
from palettery.app.checkpoints.dense import array_view
from palettery.app.compression.cancellation import CancellationCheck
from palettery.app.compression.sources import Sources, read_rows
from palettery.app.compression.statistics import encode_line, statistics
from palettery.app.errors import InvalidSensitivities
from palettery.app.storage.base import ObjectReader
from palettery.app.storage.open import shared_storage
from palettery.kernels import PaletteSettings, VectorKMeans
from palettery.kernels.errors import (
    DivisibilityError,
    NonFiniteError,
    SecondMomentError,
    SensitivityError,
)
from palettery.kernels.metrics import Metrics
from palettery.schemas.artifact import PALETTE_KEYS
from palettery.schemas.config.spec import PalettizationSpec
from palettery.schemas.config.vector_kmeans import VectorKMeansConfig
from palettery.schemas.plan import Clustering
from palettery.schemas.report import OutputError, SliceOutcome
from palettery.schemas.tasks import StoredRows, TensorSlice

HUGE_BYTES = 64 << 20
"""Slices above this size are read in blocks if their granularity allows it."""
Arrays = dict[str, NDArray[np.generic]]


@dataclass
class Palettized:
    """Arrays and outcome of a slice; no arrays if it is kept."""

    arrays: Arrays = field(default_factory=dict)
    outcome: SliceOutcome | None = None
    """None until the streamed entries are written."""
    statistics: bytes = b""
    """Line of statistics; set together with the outcome."""
    streamed: tuple[TensorEntry, ...] = ()
    """Arrays that are computed while they are written."""
    digests: dict[str, str] = field(default_factory=dict)
    """Digest of each array, set when it is written."""


def palettize(
    sources: Sources,
    item: TensorSlice,
    with_digest: bool,
    threads: int | None,
    check_cancelled: CancellationCheck,
    sparse: bool | None = None,
) -> Palettized:
    """Palettize a slice, or keep it if its weights are not finite, or vectors do not fit them.

    `sparse` is whether the whole tensor is sparse; None if the slice is the whole tensor, so that
    the kernel decides. `with_digest` adds a digest of all input bytes to the outcome.

    Raises:
        Cancelled: see `CancellationCheck`.
        InvalidSensitivities: some are negative or not finite, or second moments are invalid.
    """
    run = _palettize_blocks if _is_huge(item) else _palettize_in_memory
    try:
        return run(sources, item, with_digest, threads, check_cancelled, sparse)
    except SensitivityError as error:
        raise InvalidSensitivities(
            f"{item.name}: {error}; correct its sensitivities, or leave them out, and submit again"
        ) from error
    except SecondMomentError as error:
        raise InvalidSensitivities(
            f"{item.name}: {error}; calibrate again, or submit without error feedback"
        ) from error
    except DivisibilityError as error:
        reason = f"{error}, and it is not sparse: use a cluster_dim that does"
        return Palettized(outcome=_kept_outcome(item, reason))
    except NonFiniteError as error:
        return Palettized(outcome=_kept_outcome(item, str(error)))


def _is_huge(item: TensorSlice) -> bool:
    settings = kernel_settings(item.spec, item.clustering)
    return (
        item.size_bytes > HUGE_BYTES
        and item.strides is None
        and item.second_moment is None
        and (item.sensitivity is None or item.sensitivity.strides is None)
        and kernels.can_stream(item.shape, NUMPY[item.dtype], settings)
    )


def _palettize_in_memory(
    sources: Sources,
    item: TensorSlice,
    with_digest: bool,
    threads: int | None,
    check_cancelled: CancellationCheck,
    sparse: bool | None,
) -> Palettized:
    start_s = time.perf_counter()
    sensitivity, second_moment = item.sensitivity, item.second_moment
    data = read_rows(sources.model, item)
    importance = read_rows(sources.sensitivities, sensitivity)
    moments = read_rows(sources.second_moments, second_moment)
    palette = kernels.palettize(
        as_array(data, item),
        kernel_settings(item.spec, item.clustering),
        as_array(importance, sensitivity) if sensitivity else None,
        "auto",
        threads,
        check_cancelled,
        sparse=sparse,
        second_moment=as_array(moments, second_moment) if second_moment else None,
    )
    sha256 = None
    if with_digest:
        digest = hashlib.sha256(data)
        digest.update(importance)
        digest.update(moments)
        sha256 = digest.hexdigest()
    arrays: Arrays = {key: getattr(palette, key) for key in PALETTE_KEYS}
    arrays["indices"] = kernels.pack(palette.indices, item.spec.n_bits, threads)
    num_stored = None
    if palette.mask is not None:
        arrays["mask"], num_stored = kernels.pack_mask(palette.mask), int(palette.mask.sum())
    arrays = {key: array for key, array in arrays.items() if array is not None}
    assert palette.metrics is not None  # noqa: S101 - palettize always measures
    return Palettized(
        arrays,
        _outcome(item, palette.metrics, time.perf_counter() - start_s, sha256, num_stored),
        encode_line(statistics(item, palette.metrics, arrays)),
    )


def _palettize_blocks(
    sources: Sources,
    item: TensorSlice,
    with_digest: bool,
    threads: int | None,
    check_cancelled: CancellationCheck,
    sparse: bool | None,
) -> Palettized:
    start_s = time.perf_counter()
    palette = kernels.palettize_rows(
        SliceRows(sources.model, item),
        kernel_settings(item.spec, item.clustering),
        SliceRows(sources.sensitivities, item.sensitivity) if item.sensitivity else None,
        threads,
        "auto",
        check_cancelled,
        sparse=sparse,
    )
    arrays: Arrays = {
        key: array
        for key in PALETTE_KEYS
        if key not in ("indices", "mask") and (array := getattr(palette, key)) is not None
    }
    result = Palettized(arrays)

    def indices() -> Iterator[memoryview]:
        for block in palette.packed():
            yield block.data
        assert palette.metrics is not None  # noqa: S101 - known at the end of a pass
        sha256 = sources.content_sha256(item) if with_digest else None
        seconds = time.perf_counter() - start_s
        result.outcome = _outcome(item, palette.metrics, seconds, sha256, palette.num_stored)
        result.statistics = encode_line(statistics(item, palette.metrics, arrays))

    def mask() -> Iterator[memoryview]:
        return (block.data for block in palette.masks())

    count = math.prod(item.shape)
    indexed = count if palette.num_stored is None else palette.num_stored
    result.streamed = (_bits_entry("indices", indexed * item.spec.n_bits, indices),)
    if palette.num_stored is not None:
        result.streamed += (_bits_entry("mask", count, mask),)
    return result


def _bits_entry(name: str, bits: int, chunks: Callable[[], Chunks]) -> TensorEntry:
    size = (bits + 7) // 8
    return TensorEntry(name, "U8", (size,), size, chunks)


def is_sparse_tensor(
    source_url: str, item: TensorSlice, check_cancelled: CancellationCheck
) -> bool | None:
    """Return whether the whole tensor of a slice is sparse; None if the slice is the whole one.

    Raises:
        Cancelled: see `CancellationCheck`.
    """
    if item.whole is None:
        return None
    threshold, count = item.spec.sparsity_detection_threshold, math.prod(item.whole.shape)
    assert item.clustering.group_size is not None  # noqa: S101 - tensors are cut between groups
    nonzero, max_in_group = _count_nonzero(
        _WholeTensor(source_url, item.whole, item.clustering.group_size, check_cancelled)
    )
    return kernels.is_sparse(count - nonzero, count, threshold) and kernels.fills_vectors(
        max_in_group, item.spec.cluster_dim
    )


@dataclass(frozen=True)
class _WholeTensor:
    """A tensor that is cut into slices of whole groups on axis 0."""

    source_url: str
    rows: StoredRows
    group_size: int
    check_cancelled: CancellationCheck = field(compare=False)


@lru_cache(maxsize=64)
def _count_nonzero(whole: _WholeTensor) -> tuple[int, int]:
    """Return the number of nonzero weights of a tensor, and of the group that has the most.

    The numbers are cached, because one process often gets several slices of a tensor.
    """
    tensor, rows = SliceRows(shared_storage(whole.source_url), whole.rows), whole.rows
    groups = max(1, HUGE_BYTES * rows.shape[0] // rows.size_bytes // whole.group_size)
    total, max_in_group, step = 0, 0, groups * whole.group_size
    for first in range(0, rows.shape[0], step):
        mask = kernels.nonzero(
            tensor.read(first, min(step, rows.shape[0] - first)),
            check_cancelled=whole.check_cancelled,
        )
        counts = np.count_nonzero(mask.reshape(len(mask) // whole.group_size, -1), axis=1)
        total, max_in_group = total + int(counts.sum()), max(max_in_group, int(counts.max()))
        whole.check_cancelled()
    return total, max_in_group


class SliceRows:
    """Rows of a slice that are read in blocks, possibly several times."""

    def __init__(self, store: ObjectReader, rows: StoredRows) -> None:
        self._store, self._rows = store, rows
        self.shape, self.dtype = rows.shape, NUMPY[rows.dtype]

    def read(self, first: int, count: int) -> NDArray[np.generic]:
        """Read some rows. Shapes: -> (count, *shape[1:])."""
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        start = self._rows.offset + first * row_bytes
        data = self._store.read(self._rows.path, start, count * row_bytes)
        return array_view(data, self.dtype, (count, *self.shape[1:]), None)


def as_array(data: memoryview, rows: StoredRows) -> NDArray[np.generic]:
    """Return the bytes of stored rows as an array, without a copy."""
    return array_view(data, NUMPY[rows.dtype], rows.shape, rows.strides)


def kernel_settings(spec: PalettizationSpec, clustering: Clustering) -> PaletteSettings:
    """Return the kernel's settings from the plan's spec and clustering."""
    settings = PaletteSettings(
        n_bits=spec.n_bits,
        axis=clustering.axis,
        group_size=clustering.group_size,
        cluster_dim=spec.cluster_dim,
        per_channel_scale=spec.enable_per_channel_scale,
        rounding_precision=clustering.rounding_precision,
        vector_kmeans=_vector_kmeans(clustering.vector_kmeans),
        sparsity_threshold=spec.sparsity_detection_threshold,
    )
    if spec.lut_qspec is None:
        return settings
    return replace(
        settings,
        lut_dtype=spec.lut_qspec.dtype,
        lut_scheme=spec.lut_qspec.qscheme,
        lut_float_range=spec.lut_qspec.float_range,
        lut_scale_dtype=spec.lut_qspec.scale_dtype,
    )


def _vector_kmeans(config: VectorKMeansConfig | None) -> VectorKMeans | None:
    """Return the kernel's settings; an infinite `tol` becomes the largest float."""
    if config is None:
        return None
    return VectorKMeans(**{**dict(config), "tol": min(config.tol, sys.float_info.max)})


def _kept_outcome(item: TensorSlice, reason: str) -> SliceOutcome:
    return SliceOutcome(
        name=item.name,
        first_row=item.first_row,
        action="kept",
        reason=reason,
        weights=math.prod(item.shape),
    )


def _outcome(
    item: TensorSlice, metrics: Metrics, seconds: float, sha256: str | None, num_stored: int | None
) -> SliceOutcome:
    return SliceOutcome(
        name=item.name,
        first_row=item.first_row,
        action="palettized",
        notes=metrics.notes,
        weights=math.prod(item.shape),
        stored=num_stored,
        sse=metrics.sse,
        signal=metrics.signal,
        max_error=metrics.max_error,
        output=OutputError(**asdict(metrics.output)) if metrics.output else None,
        seconds=seconds,
        content_sha256=sha256,
    )
