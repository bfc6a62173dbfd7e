"""Supported dtypes, with their names in numpy, torch and torch.export."""

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class Dtype:
    """One dtype of safetensors 0.8."""

    bits: int
    numpy: np.dtype[np.generic] | None
    """None if numpy has no dtype with the same packing."""
    torch: str | None
    """None if torch lacks it. torch packs F4 in pairs: its last axis is half as long there."""
    number: int | None = None
    """Its number in the graph schema of torch.export."""


DTYPES: Mapping[str, Dtype] = {
    "F4": Dtype(4, None, "float4_e2m1fn_x2"),
    "F6_E2M3": Dtype(6, None, None),
    "F6_E3M2": Dtype(6, None, None),
    "BOOL": Dtype(8, np.dtype(np.bool_), "bool", 12),
    "U8": Dtype(8, np.dtype(np.uint8), "uint8", 1),
    "I8": Dtype(8, np.dtype(np.int8), "int8", 2),
    "F8_E4M3": Dtype(8, np.dtype(ml_dtypes.float8_e4m3fn), "float8_e4m3fn", 29),
    "F8_E5M2": Dtype(8, np.dtype(ml_dtypes.float8_e5m2), "float8_e5m2", 30),
    "F8_E8M0": Dtype(8, np.dtype(ml_dtypes.float8_e8m0fnu), "float8_e8m0fnu", 33),
    "F8_E4M3FNUZ": Dtype(8, np.dtype(ml_dtypes.float8_e4m3fnuz), "float8_e4m3fnuz", 31),
    "F8_E5M2FNUZ": Dtype(8, np.dtype(ml_dtypes.float8_e5m2fnuz), "float8_e5m2fnuz", 32),
    "U16": Dtype(16, np.dtype(np.uint16), "uint16", 28),
    "I16": Dtype(16, np.dtype(np.int16), "int16", 3),
    "F16": Dtype(16, np.dtype(np.float16), "float16", 6),
    "BF16": Dtype(16, np.dtype(ml_dtypes.bfloat16), "bfloat16", 13),
    "U32": Dtype(32, np.dtype(np.uint32), "uint32", 34),
    "I32": Dtype(32, np.dtype(np.int32), "int32", 4),
    "F32": Dtype(32, np.dtype(np.float32), "float32", 7),
    "U64": Dtype(64, np.dtype(np.uint64), "uint64", 35),
    "I64": Dtype(64, np.dtype(np.int64), "int64", 5),
    "F64": Dtype(64, np.dtype(np.float64), "float64", 8),
    "C64": Dtype(64, np.dtype(np.complex64), "complex64", 10),
}
"""safetensors name -> dtype; every other mapping of dtypes is derived from this one."""

DTYPE_BITS: Mapping[str, int] = {name: dtype.bits for name, dtype in DTYPES.items()}

NAME_OF_TORCH_DTYPE: Mapping[str, str] = {
    dtype.torch: name for name, dtype in DTYPES.items() if dtype.torch and dtype.bits >= 8
}
"""torch name -> safetensors name, of the dtypes whose elements take whole bytes."""
