"""Palettization of one slice of a tensor: whole in memory, or in blocks of rows if it is huge."""

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from palettery import kernels
from palettery.app.artifacts.dtypes import NUMPY
from palettery.app.artifacts.writer import TensorEntry
from palettery.app.checkpoints.dense import array_view
from palettery.app.compression.cancellation import CancellationCheck
from palettery.app.compression.statistics import encode_line, statistics
from palettery.app.errors import InvalidSensitivities
from palettery.app.storage.base import Reads
from palettery.kernels import PaletteSettings
from palettery.kernels.errors import NonFiniteError, SensitivityError
from palettery.kernels.metrics import Metrics
from palettery.schemas.artifact import PALETTE_KEYS
from palettery.schemas.config.spec import PalettizationSpec
from palettery.schemas.plan import Clustering
from palettery.schemas.report import SliceOutcome
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
    source: Reads,
    sensitivities: Reads,
    item: TensorSlice,
    digest: bool,
    threads: int | None,
    stop: CancellationCheck,
) -> Palettized:
    """Palettize a slice, or keep it if its weights are not finite.

    Raises:
        Cancelled: see `CancellationCheck`.
        InvalidSensitivities: some are negative or not finite.
    """
    run = _in_blocks if _is_huge(item) else _whole
    try:
        return run(source, sensitivities, item, digest, threads, stop)
    except SensitivityError as error:
        raise InvalidSensitivities(
            f"{item.name}: {error}; correct its sensitivities, or leave them out, and submit again"
        ) from error
    except NonFiniteError as error:
        return Palettized(outcome=_kept_outcome(item, str(error)))


def content_sha256(source: Reads, sensitivities: Reads, item: TensorSlice) -> str:
    """Return the SHA-256 of a slice's bytes followed by its sensitivities', read in chunks."""
    digest = hashlib.sha256()
    for store, rows in ((source, item), (sensitivities, item.sensitivity)):
        for chunk in store.chunks(rows.path, rows.offset, rows.size_bytes) if rows else ():
            digest.update(chunk)
    return digest.hexdigest()


def _is_huge(item: TensorSlice) -> bool:
    settings = kernel_settings(item.spec, item.clustering)
    return (
        item.size_bytes > HUGE_BYTES
        and item.strides is None
        and (item.sensitivity is None or item.sensitivity.strides is None)
        and kernels.can_stream(item.shape, NUMPY[item.dtype], settings)
    )


def _whole(
    source: Reads,
    sensitivities: Reads,
    item: TensorSlice,
    digest: bool,
    threads: int | None,
    stop: CancellationCheck,
) -> Palettized:
    started = time.perf_counter()
    data = source.read(item.path, item.offset, item.size_bytes)
    weighting, importance = item.sensitivity, memoryview(b"")
    if weighting is not None:
        importance = sensitivities.read(weighting.path, weighting.offset, weighting.size_bytes)
    palette = kernels.palettize(
        _laid_out(data, item),
        kernel_settings(item.spec, item.clustering),
        _laid_out(importance, weighting) if weighting else None,
        "auto",
        threads,
        stop,
    )
    sha256 = None
    if digest:
        hashed = hashlib.sha256(data)
        hashed.update(importance)
        sha256 = hashed.hexdigest()
    arrays: Arrays = {key: getattr(palette, key) for key in PALETTE_KEYS}
    arrays["indices"] = kernels.pack(palette.indices, item.spec.n_bits, threads)
    arrays = {key: array for key, array in arrays.items() if array is not None}
    assert palette.metrics is not None  # noqa: S101 - palettize always measures
    return Palettized(
        arrays,
        _outcome(item, palette.metrics, time.perf_counter() - started, sha256),
        encode_line(statistics(item, palette.metrics, arrays)),
    )


def _in_blocks(
    source: Reads,
    sensitivities: Reads,
    item: TensorSlice,
    digest: bool,
    threads: int | None,
    stop: CancellationCheck,
) -> Palettized:
    started = time.perf_counter()
    palette = kernels.palettize_rows(
        _Rows(source, item),
        kernel_settings(item.spec, item.clustering),
        _Rows(sensitivities, item.sensitivity) if item.sensitivity else None,
        threads,
        "auto",
        stop,
    )
    arrays: Arrays = {
        key: array
        for key in PALETTE_KEYS
        if key != "indices" and (array := getattr(palette, key)) is not None
    }
    result = Palettized(arrays)

    def indices() -> Iterator[memoryview]:
        for block in palette.packed():
            yield block.data
        assert palette.metrics is not None  # noqa: S101 - known at the end of a pass
        sha256 = content_sha256(source, sensitivities, item) if digest else None
        result.outcome = _outcome(item, palette.metrics, time.perf_counter() - started, sha256)
        result.statistics = encode_line(statistics(item, palette.metrics, arrays))

    size = (math.prod(item.shape) * item.spec.n_bits + 7) // 8
    result.streamed = (TensorEntry("indices", "U8", (size,), size, indices),)
    return result


class _Rows:
    """Rows of a slice, read in order, several times."""

    def __init__(self, store: Reads, rows: StoredRows) -> None:
        self._store, self._rows = store, rows
        self.shape, self.dtype = rows.shape, NUMPY[rows.dtype]

    def read(self, first: int, count: int) -> NDArray[np.generic]:
        """Read some rows. Shapes: -> (count, *shape[1:])."""
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        start = self._rows.offset + first * row_bytes
        data = self._store.read(self._rows.path, start, count * row_bytes)
        return array_view(data, self.dtype, (count, *self.shape[1:]), None)


def _laid_out(data: memoryview, rows: StoredRows) -> NDArray[np.generic]:
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


def _kept_outcome(item: TensorSlice, reason: str) -> SliceOutcome:
    return SliceOutcome(
        name=item.name,
        first_row=item.first_row,
        action="kept",
        reason=reason,
        weights=math.prod(item.shape),
    )


def _outcome(
    item: TensorSlice, metrics: Metrics, seconds: float, sha256: str | None
) -> SliceOutcome:
    return SliceOutcome(
        name=item.name,
        first_row=item.first_row,
        action="palettized",
        notes=metrics.notes,
        weights=math.prod(item.shape),
        sse=metrics.sse,
        signal=metrics.signal,
        max_error=metrics.max_error,
        seconds=seconds,
        content_sha256=sha256,
    )
