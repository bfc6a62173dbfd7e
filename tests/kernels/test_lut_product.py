"""Products with packed rows, against those with the dense weight."""

import numpy as np
import pytest

from palettery.kernels import lut_product as module
from palettery.kernels import pack
from palettery.kernels.lut_product import decode_rows, lut_product, unit_indices
from palettery.kernels.settings import N_BITS

GROUPS = [(1, 1), (4, 1), (12, 1), (1, 3), (2, 3)]


def packed_weight(n_bits, groups, rows=12, columns=72):
    rng = np.random.default_rng(n_bits)
    indices = rng.integers(0, 2**n_bits, (rows, columns), np.uint8)
    lut = rng.normal(size=(*groups, 2**n_bits)).astype(np.float32)
    dense = np.empty((rows, columns), np.float32)
    for row, column in np.ndindex(rows, columns):
        group = row * groups[0] // rows, column * groups[1] // columns
        dense[row, column] = lut[group][indices[row, column]]
    return pack(indices, n_bits).reshape(rows, -1), lut, dense


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("n_bits", N_BITS)
def test_rows_and_products(n_bits, groups, monkeypatch):
    packed, lut, dense = packed_weight(n_bits, groups)
    np.testing.assert_array_equal(decode_rows(packed, lut), dense)
    vectors = np.random.default_rng(1).normal(size=(3, 72)).astype(np.float32)
    products = lut_product(vectors, packed, lut)
    np.testing.assert_allclose(products, vectors @ dense.T, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(module, "_WORK_PER_THREAD", 100)
    np.testing.assert_array_equal(lut_product(vectors, packed, lut), products)
    np.testing.assert_array_equal(decode_rows(packed, lut), dense)


def test_whole_units():
    assert {n_bits: unit_indices(n_bits) for n_bits in N_BITS} == {
        1: 8,
        2: 4,
        3: 8,
        4: 2,
        6: 4,
        8: 1,
    }
