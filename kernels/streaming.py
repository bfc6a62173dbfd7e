"""Palettize a tensor that is too large to be held: its rows are read a block at a time."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial, reduce
from math import gcd, lcm, prod
from operator import add
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from palettery.kernels import metrics
from palettery.kernels.distribution import distribution, step_of
from palettery.kernels.errors import NonFiniteError, WeightError
from palettery.kernels.float16 import BFLOAT16, FLOAT16
from palettery.kernels.groups import Layout, layout_of
from palettery.kernels.lut import usable_lut
from palettery.kernels.metrics import Errors, Metrics
from palettery.kernels.packing import pack
from palettery.kernels.palette import look_up
from palettery.kernels.palettize import checked_sensitivity, palettize
from palettery.kernels.scalar import cpu, large
from palettery.kernels.scalar.fitter import Fitter
from palettery.kernels.scalar.large import Block, cluster_large, tables_for
from palettery.kernels.scalar.palettize import is_counted, measured
from palettery.kernels.scale import row_scale
from palettery.kernels.settings import PaletteSettings
from palettery.kernels.source import Source, raise_non_finite, widened
from palettery.kernels.threads import Check, unchecked

BLOCK = 1 << 22
"""Elements of a block."""
TABLES_BYTES = 1 << 27
"""What the tables of groups that share a pass over the rows may take."""


class RowSource(Protocol):
    """A tensor that is read by rows of its first axis."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the tensor."""

    def read(self, first: int, count: int) -> NDArray[Any]:
        """Some rows; called in order, several times over. Shapes: -> (count, *shape[1:])."""


@dataclass
class RowsPalette:
    """A palettized weight whose indices are made as they are asked for.

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
    """Known once `packed` was read to its end."""

    def packed(self) -> Iterator[NDArray[np.uint8]]:
        """What `pack` makes of the indices, in parts of whole bytes; each call is another pass."""
        self.metrics = yield from self.last_pass()


def can_stream(shape: tuple[int, ...], dtype: Any, settings: PaletteSettings) -> bool:
    """Whether `palettize_rows` reads such a tensor in blocks; any other it reads whole.

    It does for scalar palettes of float16, bfloat16 and float32, where the tensor is one group or
    the groups lie along axis 1, and they are large. Groups along axis 0 are rows of their own, to
    be palettized one after the other.

    Raises:
        WeightError: the settings do not fit the shape.
    """
    layout = layout_of(shape, settings)
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
    """Like `palettize` and `pack`, bit for bit as on the CPU, of a tensor that is read in blocks.

    Blocks hold four million weights, or as few rows more as it takes to end on a whole byte. The
    tensor is read once for the scale of the rows if they have one, once (two-byte weights, few
    distinct values), twice or three times for the palettes, and once for the indices; groups along
    axis 1 that are too many for one set of tables take turns. What cannot be read in blocks is
    palettized on the `device`. `check` is called as by `palettize`, the last pass included.

    Raises:
        PaletteError: as `palettize`; where a weight is not finite, before there are any indices.
    """
    if not can_stream(rows.shape, rows.dtype, settings):
        return _held(rows, settings, sensitivity, threads, device, check)
    layout, check = layout_of(rows.shape, settings), check or unchecked
    work = _Work(rows, sensitivity, settings, layout, threads, check)
    try:
        scale = work.row_scale() if settings.per_channel_scale else None
        work = replace(work, scale=scale)
        fit = work.clustered()
        shape = layout.lut_shape(2**settings.n_bits, 1)
        stored, lut = usable_lut(fit.centroids.reshape(shape), rows.dtype, settings)
    except NonFiniteError:
        raise_non_finite((work.read(*run) for run in work.runs()), rows.shape)
    last = partial(work.packed, fit, lut)
    return RowsPalette(rows.shape, rows.dtype, *stored, scale, last)


@dataclass(frozen=True)
class _Work:
    """The passes over the rows."""

    rows: RowSource
    sensitivity: RowSource | None
    settings: PaletteSettings
    layout: Layout
    threads: int | None
    check: Check
    scale: NDArray[np.float32] | None = None

    @property
    def counted(self) -> bool:
        """As in `Source`."""
        return is_counted(np.dtype(self.rows.dtype), self.layout, self.settings)

    def runs(self) -> Iterator[tuple[int, int]]:
        """First row and rows of each block: whole bytes of indices, and whole pieces if they fit.

        Then sums come about exactly as those of `palettize` do.
        """
        height, *rest = self.rows.shape
        byte = 8 // gcd(8, prod(rest) * self.settings.n_bits)
        most = BLOCK // prod(rest)
        whole = lcm(byte, self.layout.rows_within(large.PIECE))
        unit = whole if whole <= most else byte
        step = max(1, most // unit) * unit
        for first in range(0, height, step):
            yield first, min(step, height - first)

    def read(self, first: int, count: int) -> NDArray[Any]:
        """Some rows of the weight."""
        weight = self.rows.read(first, count)
        expected = (count, *self.rows.shape[1:])
        if weight.shape != expected or weight.dtype != self.rows.dtype:
            raise WeightError(
                f"rows {first} to {first + count} came as {weight.dtype} {list(weight.shape)}; "
                f"expected {self.rows.dtype} {list(expected)}"
            )
        return weight

    def row_scale(self) -> NDArray[np.float32]:
        """The scale of every row, [rows, 1..]."""
        return np.concatenate(
            [row_scale(self.read(*run), self.threads, self.check) for run in self.runs()]
        )

    def part(self, first: int, count: int, *, weighted: bool) -> Source:
        """Some rows as a tensor of their own, with their sensitivities if asked for."""
        weight, sensitivity = self.read(first, count), None
        if weighted and self.sensitivity is not None:
            sensitivity = checked_sensitivity(self.sensitivity.read(first, count), weight)
        size = count if self.layout.axis == 0 else self.layout.size
        layout = Layout(weight.shape, self.layout.axis, size)
        if self.scale is None:
            return Source(weight, layout, None, sensitivity, counted=self.counted)
        scale, largest = self.scale[first : first + count], float(self.scale.max())
        return Source(weight, layout, scale, sensitivity, largest, self.counted)

    def blocks(self) -> Iterator[Block]:
        """One pass, for clustering."""
        for first, count in self.runs():
            yield Block(self.part(first, count, weighted=True), slice(0, count), first)

    def clustered(self) -> cpu.Fit:
        """Palettes of all groups, as many of them in a pass as there may be tables for."""
        layout, k, decimals = (
            self.layout,
            2**self.settings.n_bits,
            self.settings.rounding_precision,
        )
        weighted = self.sensitivity is not None or self.scale is not None
        make, size = tables_for(layout, k, counted=self.counted, weighted=weighted)
        centroids, done = np.empty((layout.groups, k)), []
        fitter = Fitter(k, decimals, np.dtype(self.rows.dtype))
        together = max(1, TABLES_BYTES // size)
        for first in range(0, layout.groups, together):
            groups = range(first, min(first + together, layout.groups))
            tables = {group: make() for group in groups}
            done += cluster_large(
                self.blocks, layout, tables, fitter, centroids, self.threads, self.check
            )
        return cpu.fit_of(centroids, done, decimals)

    def packed(
        self, fit: cpu.Fit, lut: NDArray[Any]
    ) -> Generator[NDArray[np.uint8], None, Metrics]:
        """Packed indices of each block; at the end, how good they are."""
        k, n_bits = 2**self.settings.n_bits, self.settings.n_bits
        totals, parts, spread = cpu.Totals(self.layout.groups, k), [], []
        entries, step = widened(lut).reshape(-1, k), step_of(self.rows.shape)
        for run in self.runs():
            source = self.part(*run, weighted=False)
            indices = cpu.nearest(source, entries, totals, self.threads, self.check)
            if source.scale is not None:
                dense = look_up(indices, lut, indices.shape, source.scale, self.threads, self.check)
                parts.append(metrics.errors(source.weight, dense, self.threads, self.check))
            start = run[0] * prod(self.rows.shape[1:])
            spread.append(
                distribution(
                    source.weight, indices, lut, source.scale, source.layout, (start, step)
                )
            )
            yield pack(indices, n_bits, self.threads)
        total = totals.errors() if self.scale is None else _summed(parts)
        return measured(fit, lut, totals, total, reduce(add, spread), self.settings)


def _summed(parts: list[Errors]) -> Errors:
    return Errors(
        sum(part.sse for part in parts),
        sum(part.signal for part in parts),
        max(part.max_error for part in parts),
    )


def _held(
    rows: RowSource,
    settings: PaletteSettings,
    sensitivity: RowSource | None,
    threads: int | None,
    device: str,
    check: Check | None,
) -> RowsPalette:
    """The same with the tensor read whole."""
    height = rows.shape[0] if rows.shape else 0
    importance = None if sensitivity is None else sensitivity.read(0, height)
    found = palettize(rows.read(0, height), settings, importance, device, threads, check)

    def last_pass() -> Generator[NDArray[np.uint8], None, Metrics]:
        yield pack(found.indices, settings.n_bits, threads)
        assert found.metrics is not None  # noqa: S101 - palettize always measures
        return found.metrics

    return RowsPalette(
        found.shape,
        found.dtype,
        found.lut,
        found.lut_scale,
        found.lut_zero_point,
        found.per_channel_scale,
        last_pass,
    )
