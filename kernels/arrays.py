"""Conversion between numpy arrays and torch tensors without a copy, and between float dtypes.

Torch is never imported here: a caller who passes a tensor has imported it already.
"""

import sys
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from palettery.kernels.errors import WeightError
from palettery.kernels.float16 import BFLOAT16, FLOAT16, upcast_float16

ScalarT = TypeVar("ScalarT", bound=np.generic)
FLOAT_DTYPES = (FLOAT16, BFLOAT16, np.dtype(np.float32), np.dtype(np.float64))
_TORCH_TO_NUMPY = {
    "bfloat16": BFLOAT16,
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}


def is_torch(array: object) -> bool:
    """Return whether the array is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def to_numpy(array: Any) -> NDArray[Any]:
    """Return a numpy view of an array; tensors on another device are copied to the CPU."""
    if not is_torch(array):
        return np.asarray(array)
    torch = sys.modules["torch"]
    tensor = array.detach().cpu()
    name = str(tensor.dtype).removeprefix("torch.")
    if name in _TORCH_TO_NUMPY:
        dtype = _TORCH_TO_NUMPY[name]
        bits = torch.int16 if dtype.itemsize == 2 else torch.uint8
        return tensor.view(bits).numpy().view(dtype)  # type: ignore[no-any-return]
    return tensor.numpy()  # type: ignore[no-any-return]


def to_torch(array: NDArray[Any]) -> Any:
    """Return a torch tensor that shares the array's memory."""
    torch = sys.modules["torch"]
    for name, dtype in _TORCH_TO_NUMPY.items():
        if array.dtype == dtype:
            bits = np.int16 if dtype.itemsize == 2 else np.uint8
            return torch.from_numpy(array.view(bits)).view(getattr(torch, name))
    return torch.from_numpy(array)


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the numpy dtype that corresponds to a numpy or torch dtype."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(dtype, torch.dtype):
        dtype = to_numpy(torch.empty(0, dtype=dtype)).dtype
    result: np.dtype[Any] = np.dtype(dtype)
    return result


def check_weight(weight: NDArray[Any]) -> None:
    """Check that a weight can be palettized.

    Raises:
        WeightError: its dtype or its shape is not supported.
    """
    if weight.dtype not in FLOAT_DTYPES:
        raise WeightError(
            f"a weight of dtype {weight.dtype} cannot be palettized; "
            "expected float16, bfloat16, float32 or float64"
        )
    if weight.ndim == 0 or weight.size == 0:
        raise WeightError(
            f"a weight of shape {list(weight.shape)} is empty; "
            "expected at least one axis and one element"
        )


def contiguous(array: NDArray[ScalarT]) -> NDArray[ScalarT]:
    """Return the array itself if it is C-contiguous and aligned, otherwise a copy that is."""
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else array.copy()


def read_only(values: NDArray[ScalarT]) -> NDArray[ScalarT]:
    """Return a read-only view.

    Numba compiles a kernel once for writable and once for read-only arrays. Values from a
    memory-mapped file are read-only, so all values are passed that way.
    """
    view = values.view()
    view.flags.writeable = False
    return view


def upcast(values: NDArray[Any]) -> NDArray[np.floating]:
    """Return the values as float32, or as float64 if they are float64; a view where possible."""
    if values.dtype in (np.float32, np.float64):
        return values
    if values.dtype in (FLOAT16, BFLOAT16):
        return upcast_float16(values)
    return values.astype(np.float32)
