"""Rows of a packed weight, decoded one by one, and their products with vectors.

A row is decoded into the first cache and used there: no dense weight is built. Where a row has one
LUT, a table of all values of a byte gives several weights at once: two of 4 bits, four of 2 bits.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.jit import compiled_for_sums, compiled_inline
from palettery.kernels.threads import available_threads, parallel_map

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]
_SYMBOL_BITS = {1: 4, 2: 8, 3: 6, 4: 8, 6: 6, 8: 8}
"""Width of an index -> width of what is looked up at once."""
_LANES: dict[int, Any] = {1: np.float32, 2: np.int64, 4: np.complex128}
"""Number of float32 -> a type as large as these together."""
_WORK_PER_THREAD = 1 << 18
"""Weights, times vectors, that are worth another thread."""


def unit_indices(n_bits: int) -> int:
    """Return how many indices fill the smallest unit that kernels decode: 1 or 3 bytes."""
    return (24 if n_bits in (3, 6) else 8) // n_bits


def decode_rows(packed: Bytes, lut: Floats) -> Floats:
    """Return the rows of a packed weight.

    Shapes: as `lut_product` -> (rows, columns).
    """
    columns = packed.shape[1] * 8 // _n_bits(lut)
    dense = np.empty((len(packed), columns), np.float32)
    _decode(packed, lut, dense, np.empty((0, columns), np.float32), np.empty((0, 0), np.float32))
    return dense


def lut_product(vectors: Floats, packed: Bytes, lut: Floats) -> Floats:
    """Return the products of vectors with the rows of a packed weight, summed in float32.

    Rows and groups of columns are whole units of indices.

    Shapes: vectors (B, columns), packed (rows, bytes), lut (groups of rows, groups of columns,
    2**n_bits) -> (B, rows).
    """
    products = np.empty((len(vectors), len(packed)), np.float32)
    _decode(packed, lut, None, vectors, products)
    return products


def _n_bits(lut: Floats) -> int:
    return int(lut.shape[-1]).bit_length() - 1


def _decode(
    packed: Bytes,
    lut: Floats,
    dense: Floats | None,
    vectors: Floats,
    products: Floats,
) -> None:
    """Decode rows into `dense`, if it is given, and multiply them by the vectors."""
    n_bits, group_rows = _n_bits(lut), len(packed) // len(lut)
    lanes = _SYMBOL_BITS[n_bits] // n_bits if lut.shape[1] == 1 else 1
    work = packed.size * 8 // n_bits * max(1, len(vectors))
    threads = max(1, min(available_threads(), work // _WORK_PER_THREAD))
    rows_per_piece = -(-len(lut) // threads) * group_rows

    def run(first: int) -> None:
        rows = slice(first, first + rows_per_piece)
        lines = np.empty((1, vectors.shape[1]), np.float32) if dense is None else dense[rows]
        own = packed[rows], lut[first // group_rows :], group_rows
        if lanes == 1:
            _take_rows(*own, n_bits, lines, vectors, products[:, rows])
            return
        values = np.empty(lanes << (n_bits * lanes), np.float32)
        symbols, symbol_lines = values.view(_LANES[lanes]), lines.view(_LANES[lanes])
        _take_symbols(
            *own, n_bits, values, symbols, lines, symbol_lines, vectors, products[:, rows]
        )

    parallel_map(run, range(0, len(packed), rows_per_piece), threads)


@compiled_for_sums
def _take_rows(
    packed: Bytes,
    lut: Floats,
    group_rows: int,
    n_bits: int,
    lines: Floats,
    vectors: Floats,
    products: Floats,
) -> None:
    groups = lut.shape[1]
    size, columns = packed.shape[1] // groups, lines.shape[1] // groups
    for row in range(packed.shape[0]):
        line = lines[row % lines.shape[0]]
        for group in range(groups):
            _look_up(
                packed[row, group * size : (group + 1) * size],
                n_bits,
                lut[row // group_rows, group],
                line[group * columns : (group + 1) * columns],
            )
        _multiply(line, vectors, products[:, row])


@compiled_for_sums
def _take_symbols(
    packed: Bytes,
    lut: Floats,
    group_rows: int,
    n_bits: int,
    values: Floats,
    symbols: NDArray[Any],
    lines: Floats,
    symbol_lines: NDArray[Any],
    vectors: Floats,
    products: Floats,
) -> None:
    lanes = values.size // symbols.size
    for row in range(packed.shape[0]):
        if row % group_rows == 0:
            _fill_table(lut[row // group_rows, 0], n_bits, lanes, values)
        _look_up(packed[row], n_bits * lanes, symbols, symbol_lines[row % lines.shape[0]])
        _multiply(lines[row % lines.shape[0]], vectors, products[:, row])


@compiled_inline
def _fill_table(lut: Floats, n_bits: int, lanes: int, values: Floats) -> None:
    for symbol in range(values.size // lanes):
        for lane in range(lanes):
            values[symbol * lanes + lane] = lut[(symbol >> (lane * n_bits)) & (lut.size - 1)]


@compiled_inline
def _look_up(packed: Bytes, n_bits: int, table: NDArray[Any], out: NDArray[Any]) -> None:
    """Look up whole units of indices."""
    if n_bits == 8:
        for i in range(packed.size):
            out[i] = table[packed[i]]
    elif n_bits == 4:
        for i in range(packed.size):
            out[2 * i] = table[packed[i] & 15]
            out[2 * i + 1] = table[packed[i] >> 4]
    elif n_bits in (3, 6):
        count, mask = 24 // n_bits, (1 << n_bits) - 1
        for i in range(packed.size // 3):
            word = packed[3 * i] | packed[3 * i + 1] << 8 | packed[3 * i + 2] << 16
            for lane in range(count):
                out[count * i + lane] = table[(word >> (lane * n_bits)) & mask]
    else:
        count, mask = 8 // n_bits, (1 << n_bits) - 1
        for i in range(packed.size):
            for lane in range(count):
                out[count * i + lane] = table[(packed[i] >> (lane * n_bits)) & mask]


@compiled_inline
def _multiply(line: Floats, vectors: Floats, products: Floats) -> None:
    for number in range(vectors.shape[0]):
        vector, total = vectors[number], np.float32(0)
        for i in range(line.size):
            total += line[i] * vector[i]
        products[number] = total
