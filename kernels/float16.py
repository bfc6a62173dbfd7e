"""Two-byte floats by their bits: there are only 65,536 of them."""

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from palettery.kernels.jit import compiled

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT16 = np.dtype(np.float16)
CODES = 1 << 16
"""Bit patterns of a two-byte float."""
_BLOCK = 512
_TO_FLOAT32 = np.float32(2.0**112)
"""What the bits of a float16, put where a float32 has its own, are short of its value."""


def infinity(dtype: np.dtype[Any]) -> int:
    """The bits of infinity; those of larger magnitudes are NaN."""
    return 0x7F80 if dtype == BFLOAT16 else 0x7C00


@cache
def values_of_codes(dtype: np.dtype[Any]) -> NDArray[np.float32]:
    """The value of each bit pattern, (65536,)."""
    return widened_halves(np.arange(CODES, dtype=np.uint16).view(dtype))


def widened_halves(values: NDArray[Any]) -> NDArray[np.float32]:
    """float16 or bfloat16 values as float32."""
    codes = np.require(values, requirements=["C", "A"]).view(np.uint16).reshape(-1)
    wide = np.empty(values.shape, np.float32)
    widen(codes, values.dtype == BFLOAT16, wide.reshape(-1).view(np.uint32), wide.reshape(-1))
    return wide


@compiled
def widen(
    codes: NDArray[np.uint16], brain: bool, words: NDArray[np.uint32], values: NDArray[np.float32]
) -> None:
    """Fill words and values, which are the same memory, from bfloat16 (`brain`) or float16 bits.

    A float16's exponent and fraction, moved to where a float32 has its own, make a number that is
    too small by a power of two; multiplying mends that and normalises what was subnormal.
    """
    if brain:
        for i in range(codes.size):
            words[i] = np.uint32(codes[i]) << np.uint32(16)
        return
    for start in range(0, codes.size, _BLOCK):
        part, bits = codes[start : start + _BLOCK], words[start : start + _BLOCK]
        for i in range(part.size):
            bits[i] = np.uint32(part[i] & np.uint16(0x7FFF)) << np.uint32(13)
        scaled = values[start : start + _BLOCK]
        for i in range(part.size):
            scaled[i] *= _TO_FLOAT32
        for i in range(part.size):
            code = np.uint32(part[i])
            beyond = np.uint32((code & np.uint32(0x7C00)) == np.uint32(0x7C00))
            sign = (code & np.uint32(0x8000)) << np.uint32(16)
            bits[i] |= sign | (beyond * np.uint32(0x7F800000))
