"""Palettization of tensors too large for memory: rows are read block by block."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from math import gcd, lcm, prod
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.kernels import metrics
from palettery.kernels.arrays import upcast
from palettery.kernels.distribution import sample_distribution, sample_scalars, sampling_step
from palettery.kernels.errors import NonFiniteError, WeightError
from palettery.kernels.float16 import BFLOAT16, FLOAT16
from palettery.kernels.groups import GroupLayout, group_layout
from palettery.kernels.lut import build_lut
from palettery.kernels.metrics import Errors, Metrics
from palettery.kernels.packing import pack, pack_mask
from palettery.kernels.palette import decode
from palettery.kernels.palettize import palettize, validate_sensitivity
from palettery.kernels.rows_palette import RowSource, RowsPalette
from palettery.kernels.scalar import cpu, large_groups
from palettery.kernels.scalar.large_groups import Block, cluster_large, table_factory
from palettery.kernels.scalar.palette_fitter import PaletteFitter
from palettery.kernels.scalar.palettize import build_metrics, uses_code_counts
from palettery.kernels.scale import row_scale
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.sparsity import is_sparse, nonzero, sparsity_notes
from palettery.kernels.threads import CancellationCheck, never_cancel
from palettery.kernels.weight_reader import WeightReader, raise_non_finite

BLOCK_ELEMENTS = 1 << 22
"""Elements of a block of rows, about."""
TABLES_BYTES = 1 << 27
"""Largest total size of the tables that are filled in one pass over the rows."""


def can_stream(shape: tuple[int, ...], dtype: Any, settings: PaletteSettings) -> bool:
    """Return whether `palettize_rows` reads such a tensor in blocks; it reads any other at once.

    That is so for scalar palettes of float16, bfloat16 and float32 with large groups, if the tensor
    is a single group or the groups lie along axis 1. Groups along axis 0 are consecutive rows, so a
    caller can palettize them one after the other.

    Raises:
        WeightError: the settings do not fit the shape.
    """
    layout = group_layout(shape, settings)
    return (
        settings.cluster_dim == 1
        and np.dtype(dtype) in (FLOAT16, BFLOAT16, np.float32)
        and (layout.groups == 1 or layout.axis == 1)
        and layout.elements > cpu.MAX_SORTED_ELEMENTS
    )


def palettize_rows(
    rows: RowSource,
    settings: PaletteSettings,
    sensitivity: RowSource | None = None,
    threads: int | None = None,
    device: str = "cpu",
    check_cancelled: CancellationCheck | None = None,
    *,
    sparse: bool | None = None,
) -> RowsPalette:
    """Palettize and pack a tensor that is read in blocks, with the results of `palettize`.

    Results equal those of `palettize` on the CPU bit for bit. A block has four million weights, or
    a few rows more to end on a whole byte. The tensor is read once to count zeros if there is a
    sparsity threshold, once for the scale of the rows if they are scaled, once (two-byte weights,
    few distinct values), twice or three times for the palettes, once for the indices, and once for
    the mask of a sparse weight; groups along axis 1 that are too many for one set of tables take
    several rounds. A tensor that cannot be read in blocks is palettized on the `device`.
    `check_cancelled` and `sparse` are as in `palettize`; the former is also called during the last
    passes.

    Raises:
        PaletteError: as in `palettize`; a weight that is not finite is reported before any index.
    """
    if not can_stream(rows.shape, rows.dtype, settings):
        return _palettize_at_once(
            rows, settings, sensitivity, threads, device, check_cancelled, sparse
        )
    layout, check_cancelled = group_layout(rows.shape, settings), check_cancelled or never_cancel
    passes = RowPasses(rows, sensitivity, settings, layout, threads, check_cancelled)
    num_stored = passes.count_stored(sparse)
    passes = replace(passes, sparse=num_stored is not None)
    try:
        scale = passes.row_scale() if settings.per_channel_scale else None
        passes = replace(passes, scale=scale)
        clusters = passes.cluster((2**settings.n_bits,))[0]
        shape = layout.lut_shape(2**settings.n_bits, 1)
        lut_parts, lut = build_lut(clusters.centroids.reshape(shape), rows.dtype, settings)
    except NonFiniteError:
        raise_non_finite((passes.read(*row_range) for row_range in passes.row_ranges()), rows.shape)
    last_pass = partial(passes.assign, clusters, lut, sparsity_notes(num_stored))
    return RowsPalette(
        rows.shape, rows.dtype, *lut_parts, scale, last_pass, passes.masks, num_stored
    )


@dataclass(frozen=True)
class RowPasses:
    """Passes over the rows of a tensor, which compute row scales, palettes and indices."""

    rows: RowSource
    sensitivity: RowSource | None
    settings: PaletteSettings
    layout: GroupLayout
    threads: int | None
    check_cancelled: CancellationCheck
    scale: NDArray[np.float32] | None = None
    sparse: bool = False

    @property
    def by_code(self) -> bool:
        """Whether groups are clustered by the codes of their weights, as in `WeightReader`."""
        return uses_code_counts(np.dtype(self.rows.dtype), self.layout, self.settings)

    def row_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield first row and row count of each block.

        The indices of a block fill whole bytes. If they fit, blocks consist of whole pieces of
        `large_groups.PIECE_ELEMENTS`, so that sums have the same order as in `palettize`.
        """
        height, *rest = self.rows.shape
        whole_byte_rows = 8 // gcd(8, prod(rest) * self.settings.n_bits)
        if self.sparse:  # its mask must fill whole bytes; `assign` carries over a rest of indices
            whole_byte_rows = 8 // gcd(8, prod(rest))
        max_rows = BLOCK_ELEMENTS // prod(rest)
        piece_rows = lcm(whole_byte_rows, self.layout.rows_within(large_groups.PIECE_ELEMENTS))
        row_unit = piece_rows if piece_rows <= max_rows else whole_byte_rows
        step = max(1, max_rows // row_unit) * row_unit
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

    def count_stored(self, sparse: bool | None) -> int | None:
        """Return the number of stored weights; None if the tensor is not sparse."""
        threshold, count = self.settings.sparsity_threshold, prod(self.rows.shape)
        if threshold is None or sparse is False:
            return None
        num_stored = 0
        for row_range in self.row_ranges():
            num_stored += int(np.count_nonzero(nonzero(self.read(*row_range), self.threads)))
            self.check_cancelled()
        return num_stored if sparse or is_sparse(count - num_stored, count, threshold) else None

    def masks(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the packed mask of each block."""
        for row_range in self.row_ranges():
            self.check_cancelled()
            yield pack_mask(nonzero(self.read(*row_range), self.threads))

    def row_scale(self) -> NDArray[np.float32]:
        """Return the scale of every row, [rows, 1, ..., 1]."""
        return np.concatenate(
            [
                row_scale(self.read(*row_range), self.threads, self.check_cancelled)
                for row_range in self.row_ranges()
            ]
        )

    def reader(self, first: int, count: int, *, weighted: bool) -> WeightReader:
        """Return a reader of some rows, with their sensitivities if `weighted`."""
        weight, sensitivity = self.read(first, count), None
        if weighted and self.sensitivity is not None:
            sensitivity = validate_sensitivity(self.sensitivity.read(first, count), weight)
        size = count if self.layout.axis == 0 else self.layout.size
        layout = GroupLayout(weight.shape, self.layout.axis, size)
        mask = nonzero(weight, self.threads) if self.sparse else None
        scale, largest_scale = None, 1.0
        if self.scale is not None:
            scale, largest_scale = self.scale[first : first + count], float(self.scale.max())
        return WeightReader(weight, layout, scale, sensitivity, largest_scale, mask, self.by_code)

    def blocks(self) -> Iterator[Block]:
        """Yield all blocks, for one pass of the clustering."""
        for first, count in self.row_ranges():
            yield Block(self.reader(first, count, weighted=True), slice(0, count), first)

    def cluster(self, ks: Sequence[int]) -> list[cpu.ScalarClusters]:
        """Return palettes of all groups for each k; a pass fills tables of up to `TABLES_BYTES`."""
        layout, decimals = self.layout, self.settings.rounding_precision
        weighted = self.sensitivity is not None or self.scale is not None
        clusters: dict[int, cpu.ScalarClusters] = {}
        for table_ks in large_groups.ks_by_tables(ks, by_code=self.by_code):
            make_table, table_bytes = table_factory(
                layout, table_ks[-1], by_code=self.by_code, weighted=weighted
            )
            centroids = tuple(np.empty((layout.groups, k)) for k in table_ks)
            fitter = PaletteFitter(table_ks, decimals, np.dtype(self.rows.dtype))
            per_pass, fits = max(1, TABLES_BYTES // table_bytes), []
            for first in range(0, layout.groups, per_pass):
                groups = range(first, min(first + per_pass, layout.groups))
                tables = {group: make_table() for group in groups}
                fits += cluster_large(
                    self.blocks,
                    layout,
                    tables,
                    fitter,
                    centroids,
                    self.threads,
                    self.check_cancelled,
                )
            clusters |= zip(table_ks, cpu.scalar_clusters(centroids, fits, decimals), strict=True)
        return [clusters[k] for k in ks]

    def assign(
        self, clusters: cpu.ScalarClusters, lut: NDArray[Any], notes: tuple[str, ...]
    ) -> Generator[NDArray[np.uint8], None, Metrics]:
        """Yield the packed indices of each block; return the metrics."""
        k, n_bits = 2**self.settings.n_bits, self.settings.n_bits
        totals, parts, samples = cpu.ErrorTotals(self.layout.groups, k), [], []
        entries, step = upcast(lut).reshape(-1, k), sampling_step(self.rows.shape)
        carried = np.empty(0, np.uint8)
        for row_range in self.row_ranges():
            reader = self.reader(*row_range, weighted=False)
            indices = cpu.assign_nearest(
                reader, entries, totals, self.threads, self.check_cancelled
            )
            start = row_range[0] * prod(self.rows.shape[1:])
            values = sample_scalars(reader, indices, lut)
            samples.append(sample_distribution(reader.weight, values, (start, step)))
            if reader.scale is not None:
                dense = decode(indices, lut, reader, self.threads, self.check_cancelled)
                parts.append(
                    metrics.errors(reader.weight, dense, self.threads, self.check_cancelled)
                )
            indices = np.append(carried, indices) if carried.size else indices.reshape(-1)
            num_packed = indices.size - (indices.size % 8 if self.sparse else 0)
            yield pack(indices[:num_packed], n_bits, self.threads)
            carried = indices[num_packed:]
        yield pack(carried, n_bits)
        errors = totals.errors() if self.scale is None else _total_errors(parts)
        result = build_metrics(clusters, lut, totals, errors, reduce(add, samples), self.settings)
        return result.with_notes(notes)


def _total_errors(parts: list[Errors]) -> Errors:
    return Errors(
        sum(part.sse for part in parts),
        sum(part.signal for part in parts),
        max(part.max_error for part in parts),
    )


def _palettize_at_once(
    rows: RowSource,
    settings: PaletteSettings,
    sensitivity: RowSource | None,
    threads: int | None,
    device: str,
    check_cancelled: CancellationCheck | None,
    sparse: bool | None,
) -> RowsPalette:
    """Palettize a tensor that is read as a whole."""
    height = rows.shape[0] if rows.shape else 0
    sensitivities = None if sensitivity is None else sensitivity.read(0, height)
    weight = rows.read(0, height)
    palette = palettize(
        weight, settings, sensitivities, device, threads, check_cancelled, sparse=sparse
    )

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
        lambda: iter(() if palette.mask is None else (pack_mask(palette.mask),)),
        None if palette.mask is None else int(np.count_nonzero(palette.mask)),
    )
