import numpy as np
import pytest

from palettery.kernels import PaletteSettings, palettize
from palettery.kernels.scalar.rounding import count_rounded


def test_rounding_by_hand():
    values = np.array([0.12344, 0.12341, 0.12346, -1.99996, 3e-5, 6e-5], np.float32)
    known, counts = count_rounded(values, None, 4, 1.99996)
    expected = np.array([-2.0, 0.0, 0.0001, 0.1234, 0.1235], np.float32)
    np.testing.assert_allclose(known, expected, atol=1e-6)
    np.testing.assert_array_equal(counts, [1, 1, 1, 2, 1])


@pytest.mark.parametrize("decimals", [24, 40, 10**30])
def test_more_decimals_than_float16_has_change_nothing(decimals):
    values = np.linspace(-1, 1, 64, dtype=np.float32)
    known, _ = count_rounded(values, None, decimals, 1)
    np.testing.assert_allclose(known, np.unique(values.astype(np.float16)), rtol=1e-6)
    settings = PaletteSettings(2, rounding_precision=decimals)
    assert palettize(values.reshape(8, 8), settings).metrics.sse > 0


@pytest.mark.parametrize("decimals", [0, 3, 4, 7])
@pytest.mark.parametrize("unit", [1.0, 2.0**-11, 5e-5, 2.0**-25])
def test_counts_are_those_of_naive_rounding(unit, decimals):
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [rng.normal(0, 300 * unit, 3000), unit * rng.integers(-600, 600, 3000) / 2]
    ).astype(np.float32)
    scale = np.float32(10.0**decimals)
    rounded = np.round(values.astype(np.float16).astype(np.float32) * scale) / scale
    expected, times = np.unique(rounded, return_counts=True)
    known, counts = count_rounded(values, None, decimals, float(np.abs(values).max()))
    np.testing.assert_array_equal(known, expected)
    np.testing.assert_array_equal(counts, times)
