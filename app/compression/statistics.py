"""Statistics of tensors: computed per slice, stored as lines of JSON, merged when read."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import groupby
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palettery.app.artifacts.dtypes import NUMPY
from palettery.app.compression.parts import Parts
from palettery.app.storage.base import Storage
from palettery.kernels.arrays import upcast
from palettery.kernels.distribution import CELLS, Distribution
from palettery.kernels.lut import dense_lut
from palettery.kernels.metrics import Metrics
from palettery.schemas.statistics import SliceStatistics, TensorStatistics
from palettery.schemas.tasks import StoredBytes, StoredSlice, TensorSlice

MAX_ENTRIES = 256
"""Maximum number of LUT entries that are listed."""
MAX_GROUPS = 256
"""Maximum number of errors of groups; those of more groups are averaged in runs."""
DIGITS = 6
"""Significant digits of numbers for charts."""
PIECE_BYTES = 1 << 20
"""Size of one read of a file of lines."""


def statistics(
    item: TensorSlice, metrics: Metrics, arrays: Mapping[str, NDArray[Any]]
) -> SliceStatistics:
    """Return the statistics of a slice from its metrics and the arrays of its palette."""
    groups = len(metrics.group_sse)
    mse = (metrics.group_sse * (groups / np.prod(item.shape, dtype=np.float64))).tolist()
    groups_per_mean = -(-groups // MAX_GROUPS)
    return SliceStatistics(
        name=item.name,
        first_row=item.first_row,
        palette=_palette(arrays, NUMPY[item.dtype]),
        occupancy=tuple(metrics.occupancy.sum(axis=0).tolist()),
        unused=int(np.count_nonzero(metrics.occupancy == 0)),
        groups_each=groups_per_mean,
        group_mse=_means(mse, groups_per_mean),
        **_histograms(metrics.distribution),
    )


def merge_slices(slices: Sequence[SliceStatistics]) -> TensorStatistics:
    """Return the statistics of a tensor from those of its slices, in the order of rows."""
    first = slices[0]
    if len(slices) == 1:
        return TensorStatistics(**first.model_dump(exclude={"first_row"}))
    mse = [mean for part in slices for mean in part.group_mse]
    factor = -(-len(mse) // MAX_GROUPS)
    return TensorStatistics(
        name=first.name,
        palette=_join_palettes([part.palette for part in slices]),
        occupancy=tuple(map(sum, zip(*(part.occupancy for part in slices), strict=True))),
        unused=sum(part.unused for part in slices),
        groups_each=first.groups_each * factor,
        group_mse=_means(mse, factor),
        **_histograms(reduce(add, map(_distribution, slices))),
    )


def encode_line(slice_: SliceStatistics) -> bytes:
    """Return a slice's statistics as a line."""
    return slice_.model_dump_json().encode() + b"\n"


def rename_line(line: bytes, item: TensorSlice) -> bytes:
    """Return a line of statistics under the name of another slice."""
    update = {"name": item.name, "first_row": item.first_row}
    return encode_line(SliceStatistics.model_validate_json(line).model_copy(update=update))


def collect_statistics(store: Storage, parts: Parts, path: str) -> Parts:
    """Write the lines of all slices into one file; return the parts with their new locations."""
    offset = 0

    def relocate(part: StoredSlice) -> StoredSlice:
        nonlocal offset
        if part.statistics is None:
            return part
        size = part.statistics.size_bytes
        line = StoredBytes(path=path, offset=offset, size_bytes=size)
        offset += size
        return part.model_copy(update={"statistics": line})

    lines = [part.statistics for slices in parts.values() for part in slices]
    store.write(path, _read_ranges(store, [line for line in lines if line is not None]))
    return {name: tuple(map(relocate, slices)) for name, slices in parts.items()}


def find_statistics(store: Storage, path: str, name: str) -> TensorStatistics | None:
    """Return the statistics of a tensor from a file of lines; None if there are none."""
    prefix = b'{"name":' + json.dumps(name, ensure_ascii=False).encode() + b","
    for line_prefix, lines in groupby(_read_lines(store, path), _name_prefix):
        if line_prefix == prefix:
            return _merge_lines(lines)
    return None


def read_all(store: Storage, path: str) -> Iterator[TensorStatistics]:
    """Yield the statistics of every tensor, in the order of the file."""
    for _, lines in groupby(_read_lines(store, path), _name_prefix):
        yield _merge_lines(lines)


def _merge_lines(lines: Iterable[bytes]) -> TensorStatistics:
    return merge_slices([SliceStatistics.model_validate_json(line) for line in lines])


def _name_prefix(line: bytes) -> bytes:
    """Return a line up to the end of the tensor's name, by which adjacent lines are grouped."""
    return line[: line.index(b'","sampled":') + 2]


def _read_ranges(store: Storage, lines: Sequence[StoredBytes]) -> Iterator[memoryview]:
    """Yield the lines' bytes; adjacent ones are read at once."""
    start = 0
    for number, line in enumerate(lines, 1):
        end = line.offset + line.size_bytes
        following = lines[number] if number < len(lines) else None
        if following is not None and (following.path, following.offset) == (line.path, end):
            continue
        first = lines[start]
        yield from store.chunks(line.path, first.offset, end - first.offset)
        start = number


def _read_lines(store: Storage, path: str) -> Iterator[bytes]:
    size, rest = store.size_bytes(path), b""
    for start in range(0, size, PIECE_BYTES):
        *whole, rest = (rest + store.read(path, start, min(PIECE_BYTES, size - start))).split(b"\n")
        yield from whole


def _palette(arrays: Mapping[str, NDArray[Any]], dtype: np.dtype[Any]) -> tuple[float, ...] | None:
    lut = arrays["lut"]
    if lut.size > MAX_ENTRIES or "per_channel_scale" in arrays:
        return None
    dense = dense_lut(lut, dtype, arrays.get("lut_scale"), arrays.get("lut_zero_point"))
    return tuple(map(_round, upcast(dense).reshape(-1).tolist()))


def _join_palettes(palettes: Sequence[tuple[float, ...] | None]) -> tuple[float, ...] | None:
    entries = [entry for palette in palettes for entry in palette or ()]
    return None if None in palettes or len(entries) > MAX_ENTRIES else tuple(entries)


def _histograms(distribution: Distribution) -> dict[str, Any]:
    used = np.flatnonzero(distribution.weights + distribution.reconstructed)
    first, end = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
    return {
        "sampled": distribution.sample_size,
        "cell_exponent": distribution.exponent,
        "first_cell": first - CELLS // 2,
        "weights": tuple(distribution.weights[first:end].tolist()),
        "reconstructed": tuple(distribution.reconstructed[first:end].tolist()),
    }


def _distribution(slice_: SliceStatistics) -> Distribution:
    cells = np.zeros((2, CELLS), np.int64)
    first = slice_.first_cell + CELLS // 2
    cells[:, first : first + len(slice_.weights)] = slice_.weights, slice_.reconstructed
    return Distribution(slice_.cell_exponent, *cells)


def _means(numbers: Sequence[float], size: int) -> tuple[float, ...]:
    """Return the means of runs of `size` numbers."""
    runs = (numbers[start : start + size] for start in range(0, len(numbers), size))
    return tuple(_round(sum(run) / len(run)) for run in runs)


def _round(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")
