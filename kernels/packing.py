"""Packing of indices into a bit stream, and unpacking: row-major, least significant bit first.

The bit order is that of Core ML's weight.bin.
"""

from math import prod

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.arrays import read_only
from palettery.kernels.errors import SettingsError
from palettery.kernels.jit import compiled
from palettery.kernels.settings import N_BITS
from palettery.kernels.threads import parallel_map

_BLOCK = 1 << 20
"""Indices per piece of work; a multiple of 8, so that pieces fill whole bytes at any width."""


def pack(indices: NDArray[np.uint8], n_bits: int, threads: int | None = None) -> NDArray[np.uint8]:
    """Return the lowest `n_bits` bits of each index as one bit stream.

    Shapes: any -> (ceil(size * n_bits / 8),).

    Raises:
        SettingsError: n_bits is not allowed.
    """
    _check_n_bits(n_bits)
    flat = read_only(np.ascontiguousarray(indices).reshape(-1))
    packed = np.empty((flat.size * n_bits + 7) // 8, np.uint8)
    pack_block = _pack_3_or_6 if n_bits in (3, 6) else _pack_dividing

    def pack_range(start: int) -> None:
        stop = min(start + _BLOCK, flat.size)
        pack_block(flat[start:stop], n_bits, packed[start * n_bits // 8 : (stop * n_bits + 7) // 8])

    parallel_map(pack_range, range(0, flat.size, _BLOCK), threads)
    return packed


def unpack(
    packed: NDArray[np.uint8], n_bits: int, shape: tuple[int, ...], threads: int | None = None
) -> NDArray[np.uint8]:
    """Return the indices that `pack` packed.

    Shapes: (ceil(prod(shape) * n_bits / 8),) -> shape.

    Raises:
        SettingsError: n_bits is not allowed, or the number of bytes does not fit the shape.
    """
    _check_n_bits(n_bits)
    count = prod(shape)
    num_bytes = (count * n_bits + 7) // 8
    if packed.size != num_bytes:
        raise SettingsError(
            f"{packed.size} packed bytes cannot be {count} indices of {n_bits} bits; "
            f"expected {num_bytes} bytes"
        )
    source = read_only(np.ascontiguousarray(packed).reshape(-1))
    flat = np.empty(count, np.uint8)
    unpack_block = _unpack_3_or_6 if n_bits in (3, 6) else _unpack_dividing

    def unpack_range(start: int) -> None:
        stop = min(start + _BLOCK, count)
        unpack_block(
            source[start * n_bits // 8 : (stop * n_bits + 7) // 8], n_bits, flat[start:stop]
        )

    parallel_map(unpack_range, range(0, count, _BLOCK), threads)
    return flat.reshape(shape)


def pack_mask(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a mask as one bit stream. Shapes: any -> (ceil(size / 8),)."""
    return np.packbits(mask.reshape(-1), bitorder="little")


def unpack_mask(packed: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the mask that `pack_mask` packed. Shapes: (ceil(prod(shape) / 8),) -> shape."""
    bits = np.unpackbits(packed, count=prod(shape), bitorder="little")
    return bits.view(np.bool_).reshape(shape)


def _check_n_bits(n_bits: int) -> None:
    if n_bits not in N_BITS:
        raise SettingsError(f"n_bits is {n_bits!r}; it must be one of {N_BITS}")


@compiled
def _pack_dividing(indices: NDArray[np.uint8], n_bits: int, packed: NDArray[np.uint8]) -> None:
    """Pack widths that divide 8: every byte holds whole indices."""
    mask = np.uint8((1 << n_bits) - 1)
    if n_bits == 8:
        packed[:] = indices
        return
    if n_bits == 4:
        for i in range(indices.size // 2):
            packed[i] = (indices[2 * i] & 15) | (indices[2 * i + 1] << 4)
    elif n_bits == 2:
        for i in range(indices.size // 4):
            low = (indices[4 * i] & 3) | ((indices[4 * i + 1] & 3) << 2)
            packed[i] = low | ((indices[4 * i + 2] & 3) << 4) | (indices[4 * i + 3] << 6)
    else:
        for i in range(indices.size // 8):
            byte = np.uint8(0)
            for lane in range(8):
                byte |= (indices[8 * i + lane] & 1) << lane
            packed[i] = byte
    per_byte = 8 // n_bits
    whole = indices.size // per_byte
    if whole < packed.size:
        byte = np.uint8(0)
        for i in range(whole * per_byte, indices.size):
            byte |= (indices[i] & mask) << ((i - whole * per_byte) * n_bits)
        packed[whole] = byte


@compiled
def _unpack_dividing(packed: NDArray[np.uint8], n_bits: int, indices: NDArray[np.uint8]) -> None:
    if n_bits == 8:
        indices[:] = packed
        return
    per_byte = 8 // n_bits
    mask = np.uint8((1 << n_bits) - 1)
    whole = indices.size // per_byte
    if n_bits == 4:
        for i in range(whole):
            indices[2 * i] = packed[i] & 15
            indices[2 * i + 1] = packed[i] >> 4
    elif n_bits == 2:
        for i in range(whole):
            for lane in range(4):
                indices[4 * i + lane] = (packed[i] >> (2 * lane)) & 3
    else:
        for i in range(whole):
            for lane in range(8):
                indices[8 * i + lane] = (packed[i] >> lane) & 1
    for i in range(whole * per_byte, indices.size):
        indices[i] = (packed[whole] >> ((i - whole * per_byte) * n_bits)) & mask


@compiled
def _pack_3_or_6(indices: NDArray[np.uint8], n_bits: int, packed: NDArray[np.uint8]) -> None:
    """Pack widths 3 and 6: eight indices fill n_bits whole bytes."""
    mask = np.uint64((1 << n_bits) - 1)
    whole = indices.size // 8
    for i in range(whole):
        word = np.uint64(0)
        for lane in range(8):
            word |= (np.uint64(indices[8 * i + lane]) & mask) << np.uint64(lane * n_bits)
        for byte in range(n_bits):
            packed[n_bits * i + byte] = np.uint8((word >> np.uint64(8 * byte)) & np.uint64(255))
    if whole * n_bits < packed.size:
        word = np.uint64(0)
        for i in range(8 * whole, indices.size):
            word |= (np.uint64(indices[i]) & mask) << np.uint64((i - 8 * whole) * n_bits)
        for at in range(whole * n_bits, packed.size):
            packed[at] = np.uint8((word >> np.uint64(8 * (at - whole * n_bits))) & np.uint64(255))


@compiled
def _unpack_3_or_6(packed: NDArray[np.uint8], n_bits: int, indices: NDArray[np.uint8]) -> None:
    mask = np.uint64((1 << n_bits) - 1)
    for i in range((indices.size + 7) // 8):
        word = np.uint64(0)
        for at in range(n_bits * i, min(n_bits * (i + 1), packed.size)):
            word |= np.uint64(packed[at]) << np.uint64(8 * (at - n_bits * i))
        for lane in range(min(8, indices.size - 8 * i)):
            indices[8 * i + lane] = np.uint8((word >> np.uint64(lane * n_bits)) & mask)
