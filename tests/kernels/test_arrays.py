"""Arrays of numpy and torch, and their dtypes."""

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from palettery.kernels.arrays import (
    check_weight,
    is_torch,
    numpy_dtype,
    read_only,
    to_numpy,
    to_torch,
    upcast,
)
from palettery.kernels.errors import WeightError

TORCH = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "uint8": np.uint8,
}


@pytest.mark.parametrize("name", TORCH)
def test_tensors_and_arrays_share_memory(name):
    tensor = torch.arange(6).to(getattr(torch, name)).reshape(2, 3)
    array = to_numpy(tensor)
    assert (array.dtype, array.shape) == (np.dtype(TORCH[name]), (2, 3))
    assert_array_equal(array.astype(np.float32), [[0, 1, 2], [3, 4, 5]])
    back = to_torch(array)
    assert (back.dtype, back.data_ptr()) == (tensor.dtype, tensor.data_ptr())
    assert numpy_dtype(tensor.dtype) == array.dtype
    assert (is_torch(tensor), is_torch(array)) == (True, False)


def test_values_become_wide_and_wide_ones_stay_a_view():
    for dtype in (np.float32, np.float64):
        values = np.ones(3, dtype)
        assert upcast(values) is values
    for dtype in (np.float16, ml_dtypes.bfloat16, np.int8):
        assert upcast(np.ones(3, dtype)).dtype == np.float32


def test_read_only_is_a_view():
    values = np.ones(3)
    view = read_only(values)
    assert (view.base is values, view.flags.writeable, values.flags.writeable) == (
        True,
        False,
        True,
    )


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(2, np.int32), "dtype int32 cannot be palettized"),
        (np.float32(1), r"shape \[\] is empty"),
        (np.ones((0, 4)), r"shape \[0, 4\] is empty"),
    ],
)
def test_weights_that_cannot_be(weight, message):
    with pytest.raises(WeightError, match=message):
        check_weight(np.asarray(weight))
