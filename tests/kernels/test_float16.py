"""Every two-byte float against numpy and ml_dtypes."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from palettery.kernels.float16 import (
    BFLOAT16,
    CODES,
    FLOAT16,
    code_values,
    infinity_code,
    upcast_float16,
)


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
def test_every_code_has_its_value(dtype):
    values = np.arange(CODES, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):
        expected = values.astype(np.float32)
    assert_array_equal(code_values(dtype), expected)
    assert_array_equal(
        upcast_float16(values.reshape(256, 256)[:, ::2]), expected.reshape(256, 256)[:, ::2]
    )
    assert_array_equal(np.signbit(code_values(dtype)), np.arange(CODES) >= CODES // 2)


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
def test_codes_above_that_of_infinity_are_no_numbers(dtype):
    code = infinity_code(dtype)
    values = code_values(dtype)
    assert np.isposinf(values[code])
    assert np.isfinite(values[:code]).all()
    assert np.isnan(values[code + 1 : CODES // 2]).all()
