"""Palettization of tensors too large for memory: rows are read block by block."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial, reduce
from math import gcd, lcm, prod
from operator import add
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from palettery.kernels import metrics
from palettery.kernels.arrays import upcast
from palettery.kernels.distribution import sample_distribution, sampling_step
from palettery.kernels.errors import NonFiniteError, WeightError
from palettery.kernels.float16 import BFLOAT16, FLOAT16
from palettery.kernels.groups import GroupLayout, group_layout
from palettery.kernels.lut import build_lut
from palettery.kernels.metrics import Errors, Metrics
from palettery.kernels.packing import pack
from palettery.kernels.palette import look_up
from palettery.kernels.palettize import palettize, validate_sensitivity
from palettery.kernels.scalar import cpu, large_groups
from palettery.kernels.scalar.large_groups import Block, cluster_large, table_factory
from palettery.kernels.scalar.palette_fitter import PaletteFitter
from palettery.kernels.scalar.palettize import build_metrics, uses_code_counts
from palettery.kernels.scale import row_scale
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.threads import Check, no_check
from palettery.kernels.weight_reader import WeightReader, raise_non_finite

BLOCK = 1 << 22
"""Elements of a block."""
TABLES_BYTES = 1 << 27
"""Largest total size of the tables that are filled in one pass over the rows."""


class RowSource(Protocol):
    """A tensor that is read by rows, along its first axis."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the tensor."""

    def read(self, first: int, count: int) -> NDArray[Any]:
        """Return some rows. Each pass reads them in order. Shapes: -> (count, *shape[1:])."""


@dataclass
class RowsPalette:
    """A palettized weight whose indices are computed while they are read.

    Shapes: as in `Palette`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    lut: NDArray[Any]
    lut_scale: NDArray[np.float32] | None
    lut_zero_point: NDArray[Any] | None
    per_channel_scale: NDArray[np.float32] | None
    last_pass: Callable[[], Generator[NDArray[np.uint8], None, Metrics]]
    metrics: Metrics | None = None
    """Errors and statistics; None until `packed` was read to its end."""

    def packed(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the packed indices in parts of whole bytes; each call is a pass over the rows."""
        self.metrics = yield from self.last_pass()


def can_stream(shape: tuple[int, ...], dtype: Any, settings: PaletteSettings) -> bool:
    """Return whether `palettize_rows` reads such a tensor in blocks; it reads any other at once.

    It does for scalar palettes of float16, bfloat16 and float32 if the tensor is one group or the
    groups lie along axis 1, and the groups are large. Groups along axis 0 are consecutive rows,
    which can be palettized one group after the other.

    Raises:
        WeightError: the settings do not fit the shape.
    """
    layout = group_layout(shape, settings)
    return (
        settings.cluster_dim == 1
        and np.dtype(dtype) in (FLOAT16, BFLOAT16, np.float32)
        and (layout.groups == 1 or layout.axis == 1)
        and layout.elements > cpu.LARGEST_SORTED
    )


def palettize_rows(
    rows: RowSource,
    settings: PaletteSettings,
    sensitivity: RowSource | None = None,
    threads: int | None = None,
    device: str = "cpu",
    check: Check | None = None,
) -> RowsPalette:
    """Palettize and pack a tensor that is read in blocks, with the results of `palettize`.

    Results equal those of `palettize` on the CPU bit for bit. A block has four million weights, or
    a few rows more to end on a whole byte. The tensor is read once for the scale of the rows if
    they are scaled, once (two-byte weights, few distinct values), twice or three times for the
    palettes, and once for the indices; groups along axis 1 that are too many for one set of tables
    take several rounds. A tensor that cannot be read in blocks is palettized on the `device`.
    `check` is called as by `palettize`, also during the last pass.

    Raises:
        PaletteError: as in `palettize`; a weight that is not finite is reported before any index.
    """
    if not can_stream(rows.shape, rows.dtype, settings):
        return _palettize_whole(rows, settings, sensitivity, threads, device, check)
    layout, check = group_layout(rows.shape, settings), check or no_check
    passes = _RowPasses(rows, sensitivity, settings, layout, threads, check)
    try:
        scale = passes.row_scale() if settings.per_channel_scale else None
        passes = replace(passes, scale=scale)
        clusters = passes.cluster()
        shape = layout.lut_shape(2**settings.n_bits, 1)
        stored, lut = build_lut(clusters.centroids.reshape(shape), rows.dtype, settings)
    except NonFiniteError:
        raise_non_finite((passes.read(*run) for run in passes.runs()), rows.shape)
    last_pass = partial(passes.assign, clusters, lut)
    return RowsPalette(rows.shape, rows.dtype, *stored, scale, last_pass)


@dataclass(frozen=True)
class _RowPasses:
    """Passes over the rows of a tensor: for the row scale, the palettes and the indices."""

    rows: RowSource
    sensitivity: RowSource | None
    settings: PaletteSettings
    layout: GroupLayout
    threads: int | None
    check: Check
    scale: NDArray[np.float32] | None = None

    @property
    def counted(self) -> bool:
        """Whether groups are clustered by codes, as in `WeightReader`."""
        return uses_code_counts(np.dtype(self.rows.dtype), self.layout, self.settings)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield first row and row count of each block: whole bytes, and whole pieces if they fit.

        So sums have the same order as those of `palettize`.
        """
        height, *rest = self.rows.shape
        byte = 8 // gcd(8, prod(rest) * self.settings.n_bits)
        most = BLOCK // prod(rest)
        whole = lcm(byte, self.layout.rows_within(large_groups.PIECE))
        unit = whole if whole <= most else byte
        step = max(1, most // unit) * unit
        for first in range(0, height, step):
            yield first, min(step, height - first)

    def read(self, first: int, count: int) -> NDArray[Any]:
        """Return some rows of the weight.

        Raises:
            WeightError: the row source returned another shape or dtype.
        """
        weight = self.rows.read(first, count)
        expected = (count, *self.rows.shape[1:])
        if weight.shape != expected or weight.dtype != self.rows.dtype:
            raise WeightError(
                f"rows {first} to {first + count} are {weight.dtype} {list(weight.shape)}; "
                f"expected {self.rows.dtype} {list(expected)}"
            )
        return weight

    def row_scale(self) -> NDArray[np.float32]:
        """Return the scale of every row, [rows, 1..]."""
        return np.concatenate(
            [row_scale(self.read(*run), self.threads, self.check) for run in self.runs()]
        )

    def part(self, first: int, count: int, *, weighted: bool) -> WeightReader:
        """Return a reader of some rows, with their sensitivities if `weighted`."""
        weight, sensitivity = self.read(first, count), None
        if weighted and self.sensitivity is not None:
            sensitivity = validate_sensitivity(self.sensitivity.read(first, count), weight)
        size = count if self.layout.axis == 0 else self.layout.size
        layout = GroupLayout(weight.shape, self.layout.axis, size)
        if self.scale is None:
            return WeightReader(weight, layout, None, sensitivity, counted=self.counted)
        scale, largest = self.scale[first : first + count], float(self.scale.max())
        return WeightReader(weight, layout, scale, sensitivity, largest, self.counted)

    def blocks(self) -> Iterator[Block]:
        """Yield all blocks, for one pass of the clustering."""
        for first, count in self.runs():
            yield Block(self.part(first, count, weighted=True), slice(0, count), first)

    def cluster(self) -> cpu.ScalarClusters:
        """Return the palettes of all groups; one pass serves as many as tables fit in memory."""
        layout, k, decimals = (
            self.layout,
            2**self.settings.n_bits,
            self.settings.rounding_precision,
        )
        weighted = self.sensitivity is not None or self.scale is not None
        make, size = table_factory(layout, k, counted=self.counted, weighted=weighted)
        centroids, done = np.empty((layout.groups, k)), []
        fitter = PaletteFitter(k, decimals, np.dtype(self.rows.dtype))
        per_pass = max(1, TABLES_BYTES // size)
        for first in range(0, layout.groups, per_pass):
            groups = range(first, min(first + per_pass, layout.groups))
            tables = {group: make() for group in groups}
            done += cluster_large(
                self.blocks, layout, tables, fitter, centroids, self.threads, self.check
            )
        return cpu.scalar_clusters(centroids, done, decimals)

    def assign(
        self, clusters: cpu.ScalarClusters, lut: NDArray[Any]
    ) -> Generator[NDArray[np.uint8], None, Metrics]:
        """Yield the packed indices of each block; return the metrics."""
        k, n_bits = 2**self.settings.n_bits, self.settings.n_bits
        totals, parts, samples = cpu.ErrorTotals(self.layout.groups, k), [], []
        entries, step = upcast(lut).reshape(-1, k), sampling_step(self.rows.shape)
        for run in self.runs():
            reader = self.part(*run, weighted=False)
            indices = cpu.assign_nearest(reader, entries, totals, self.threads, self.check)
            if reader.scale is not None:
                dense = look_up(indices, lut, indices.shape, reader.scale, self.threads, self.check)
                parts.append(metrics.errors(reader.weight, dense, self.threads, self.check))
            start = run[0] * prod(self.rows.shape[1:])
            samples.append(
                sample_distribution(
                    reader.weight, indices, lut, reader.scale, reader.layout, (start, step)
                )
            )
            yield pack(indices, n_bits, self.threads)
        total = totals.errors() if self.scale is None else _total_errors(parts)
        return build_metrics(clusters, lut, totals, total, reduce(add, samples), self.settings)


def _total_errors(parts: list[Errors]) -> Errors:
    return Errors(
        sum(part.sse for part in parts),
        sum(part.signal for part in parts),
        max(part.max_error for part in parts),
    )


def _palettize_whole(
    rows: RowSource,
    settings: PaletteSettings,
    sensitivity: RowSource | None,
    threads: int | None,
    device: str,
    check: Check | None,
) -> RowsPalette:
    """Palettize a tensor that is read at once."""
    height = rows.shape[0] if rows.shape else 0
    importance = None if sensitivity is None else sensitivity.read(0, height)
    palette = palettize(rows.read(0, height), settings, importance, device, threads, check)

    def last_pass() -> Generator[NDArray[np.uint8], None, Metrics]:
        yield pack(palette.indices, settings.n_bits, threads)
        assert palette.metrics is not None  # noqa: S101 - palettize always sets it
        return palette.metrics

    return RowsPalette(
        palette.shape,
        palette.dtype,
        palette.lut,
        palette.lut_scale,
        palette.lut_zero_point,
        palette.per_channel_scale,
        last_pass,
    )
