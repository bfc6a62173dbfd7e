import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from palettery.kernels.lut import dequantize_lut, quantize_lut


def palette(*entries: float) -> np.ndarray:
    return np.array(entries, np.float32).reshape(1, 1, -1, 1)


def test_int8_symmetric_by_hand() -> None:
    entries, scale, zero_point = quantize_lut(
        palette(-1.275, 0.0, 0.5, 1.275), "int8", "symmetric", None, None
    )
    assert entries.dtype == np.int8
    assert_array_equal(entries.ravel(), [-128, 0, 50, 127])
    assert_array_equal(scale, np.full((1, 1, 1, 1), np.float32(1.275) / np.float32(127.5)))
    assert_array_equal(zero_point, np.zeros((1, 1, 1, 1), np.int8))


def test_clipping_gives_up_the_lowest_code() -> None:
    entries, scale, _ = quantize_lut(
        palette(-127.0, 127.0), "int8", "symmetric_with_clipping", None, None
    )
    assert scale.item() == 1.0
    assert_array_equal(entries.ravel(), [-127, 127])


def test_asymmetric_range_includes_zero() -> None:
    entries, scale, zero_point = quantize_lut(
        palette(51.0, 255.0), "uint8", "asymmetric", None, None
    )
    assert (scale.item(), zero_point.item()) == (1.0, 0)
    assert_array_equal(entries.ravel(), [51, 255])


def test_halves_round_to_even() -> None:
    entries, _, _ = quantize_lut(palette(0.5, 1.5, 2.5), "uint8", "asymmetric", (0.0, 255.0), None)
    assert_array_equal(entries.ravel(), [0, 2, 2])


def test_values_outside_float_range_saturate() -> None:
    entries, scale, zero_point = quantize_lut(
        palette(-3e38, 3e38), "int8", "asymmetric", (-128e-6, 127e-6), None
    )
    assert_array_equal(entries.ravel(), [-128, 127])
    assert dequantize_lut(entries, scale, zero_point).max() == pytest.approx(127e-6)


def test_power_of_two_scale_by_hand() -> None:
    # floor(log2 6) = 2, and 2 - 8 = -6.
    entries, scale, zero_point = quantize_lut(
        palette(6.0, -1.0), "float8_e4m3fn", "symmetric", None, "float8_e8m0fnu"
    )
    assert zero_point is None
    assert scale.item() == 2.0**-6
    assert entries.dtype == ml_dtypes.float8_e4m3fn
    assert_array_equal(dequantize_lut(entries, scale, None).ravel(), [6.0, -1.0])


def test_groups_have_their_own_scale() -> None:
    lut = np.array([1.0, 2.0], np.float32).reshape(2, 1, 1, 1, 1) * palette(-1.0, 1.0)
    _, scale, zero_point = quantize_lut(lut, "int8", "symmetric", None, None)
    assert scale.shape == zero_point.shape == (2, 1, 1, 1, 1)
    assert scale[1] == 2 * scale[0]


@pytest.mark.parametrize("scheme", ["symmetric", "symmetric_with_clipping", "asymmetric"])
@pytest.mark.parametrize("lut_dtype", ["int8", "uint8"])
def test_error_is_at_most_half_a_step_without_clipping(lut_dtype: str, scheme: str) -> None:
    lut = np.random.default_rng(0).normal(size=(8, 1, 16, 2)).astype(np.float32)
    entries, scale, zero_point = quantize_lut(lut, lut_dtype, scheme, None, None)
    error = np.abs(dequantize_lut(entries, scale, zero_point) - lut)
    assert (error <= scale * 1.001).all()
    assert np.median(error / scale) < 0.5


def test_zero_palette_stays_zero() -> None:
    lut = np.zeros((1, 1, 16, 1), np.float32)
    for lut_dtype in ("int8", "uint8", "float8_e4m3fn", "float8_e5m2"):
        entries, scale, zero_point = quantize_lut(lut, lut_dtype, "symmetric", None, None)
        assert_array_equal(dequantize_lut(entries, scale, zero_point), lut)


def test_span_beyond_float16_stays_finite() -> None:
    lut = palette(-65504.0, 0.0, 65504.0).astype(np.float16)
    entries, scale, zero_point = quantize_lut(lut, "int8", "asymmetric", None, None)
    assert_allclose(dequantize_lut(entries, scale, zero_point), lut, atol=scale.item())
