"""float16 and bfloat16 values, and their 65,536 bit patterns (codes)."""

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from palettery.kernels.jit import compiled

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT16 = np.dtype(np.float16)
CODES = 1 << 16
"""Number of bit patterns of a two-byte float."""
_BLOCK = 512
_EXPONENT_FACTOR = np.float32(2.0**112)
"""Factor that corrects the exponent bias of float16 bits placed in a float32."""


def infinity_code(dtype: np.dtype[Any]) -> int:
    """Return the code of infinity; larger codes, the sign bit aside, are NaN."""
    return 0x7F80 if dtype == BFLOAT16 else 0x7C00


@cache
def code_values(dtype: np.dtype[Any]) -> NDArray[np.float32]:
    """Return the value of each code, (65536,)."""
    return upcast_float16(np.arange(CODES, dtype=np.uint16).view(dtype))


def upcast_float16(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return float16 or bfloat16 values as float32."""
    codes = np.require(values, requirements=["C", "A"]).view(np.uint16).reshape(-1)
    wide = np.empty(values.shape, np.float32)
    upcast_codes(
        codes, values.dtype == BFLOAT16, wide.reshape(-1).view(np.uint32), wide.reshape(-1)
    )
    return wide


@compiled
def upcast_codes(
    codes: NDArray[np.uint16],
    is_bfloat16: bool,
    words: NDArray[np.uint32],
    values: NDArray[np.float32],
) -> None:
    """Fill words and values, which share their memory, with the float32 values of the codes.

    The exponent and fraction of a float16, moved to their place in a float32, make a number that
    is too small by a power of two. Multiplying corrects that and normalises subnormal numbers.
    """
    if is_bfloat16:
        for i in range(codes.size):
            words[i] = np.uint32(codes[i]) << np.uint32(16)
        return
    for start in range(0, codes.size, _BLOCK):
        part, bits = codes[start : start + _BLOCK], words[start : start + _BLOCK]
        for i in range(part.size):
            bits[i] = np.uint32(part[i] & np.uint16(0x7FFF)) << np.uint32(13)
        scaled = values[start : start + _BLOCK]
        for i in range(part.size):
            scaled[i] *= _EXPONENT_FACTOR
        for i in range(part.size):
            code = np.uint32(part[i])
            non_finite = np.uint32((code & np.uint32(0x7C00)) == np.uint32(0x7C00))
            sign = (code & np.uint32(0x8000)) << np.uint32(16)
            bits[i] |= sign | (non_finite * np.uint32(0x7F800000))
