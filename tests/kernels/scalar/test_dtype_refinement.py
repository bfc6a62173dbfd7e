"""Entries of two-byte palettes: no single step of one makes them better."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from palettery.kernels.float16 import BFLOAT16, FLOAT16
from palettery.kernels.scalar.dtype_refinement import finite_values, refine_entries, total_error
from palettery.kernels.scalar.exact_kmeans import find_centroids

NONE = np.empty(0)


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
def test_finite_values_ascend_and_are_all_there_are(dtype):
    values = finite_values(dtype)
    assert (np.diff(values) > 0).all()
    assert values.size == 2 * (0x7F80 if dtype == BFLOAT16 else 0x7C00) - 1
    assert_array_equal(values.astype(dtype).astype(np.float64), values)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
def test_no_step_of_an_entry_lowers_the_error(dtype, weighted):
    rng = np.random.default_rng(4)
    values = np.sort((1 + 0.01 * rng.normal(size=600)).astype(np.float32))
    mass = rng.random(600) if weighted else NONE
    wide, weights = values.astype(np.float64), mass if weighted else np.ones(600)
    centroids = np.empty(8)
    find_centroids(values, mass, 8, centroids, np.empty((3, 601)))
    found = refine_entries(values, mass, centroids, dtype)
    least = total_error(wide, weights, found)
    assert least <= total_error(wide, weights, centroids.astype(dtype).astype(np.float64))
    representable = finite_values(dtype)
    for at, entry in enumerate(found):
        place = np.searchsorted(representable, entry)
        assert representable[place] == entry
        for step in (-1, 1):
            moved = found.copy()
            moved[at] = representable[place + step]
            assert total_error(wide, weights, np.sort(moved)) >= least * (1 - 1e-9)


def test_few_values_are_only_rounded():
    values = np.array([0.1, 0.1, 0.7], np.float32)
    found = refine_entries(values, NONE, np.array([0.1, 0.7, 0.7]), FLOAT16)
    assert_array_equal(found, np.float16([0.1, 0.7, 0.7]).astype(np.float64))
