"""Arrays as callers hold them, numpy or torch, to numpy and back without a copy.

Torch is never imported here: a caller who passes a tensor has it already.
"""

import sys
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from palettery.kernels.errors import WeightError
from palettery.kernels.float16 import BFLOAT16, FLOAT16

FLOATS = (FLOAT16, BFLOAT16, np.dtype(np.float32), np.dtype(np.float64))
_TORCH_TO_NUMPY = {
    "bfloat16": BFLOAT16,
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}


def is_torch(array: object) -> bool:
    """Whether the array is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def to_numpy(array: Any) -> NDArray[Any]:
    """A numpy view of an array; tensors on another device are copied to the CPU."""
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
    """A torch tensor over the same memory."""
    torch = sys.modules["torch"]
    for name, dtype in _TORCH_TO_NUMPY.items():
        if array.dtype == dtype:
            bits = np.int16 if dtype.itemsize == 2 else np.uint8
            return torch.from_numpy(array.view(bits)).view(getattr(torch, name))
    return torch.from_numpy(array)


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """The numpy dtype of a numpy or torch dtype."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(dtype, torch.dtype):
        dtype = to_numpy(torch.empty(0, dtype=dtype)).dtype
    found: np.dtype[Any] = np.dtype(dtype)
    return found


def check_weight(weight: NDArray[Any]) -> None:
    """Refuse what cannot be palettized.

    Raises:
        WeightError: names the dtype or the shape.
    """
    if weight.dtype not in FLOATS:
        raise WeightError(
            f"a weight of dtype {weight.dtype} cannot be palettized; "
            "expected float16, bfloat16, float32 or float64"
        )
    if weight.ndim == 0 or weight.size == 0:
        raise WeightError(
            f"a weight of shape {list(weight.shape)} has nothing to palettize; "
            "expected at least one axis and one element"
        )
