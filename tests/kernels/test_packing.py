"""Bit packing against hand-computed bytes and a naive bit string."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from palettery.kernels import pack, unpack
from palettery.kernels.errors import SettingsError

WIDTHS = [1, 2, 3, 4, 6, 8]


@pytest.mark.parametrize(
    ("n_bits", "indices", "expected"),
    [
        (1, [1, 0, 0, 0, 0, 0, 0, 1, 1], [0b10000001, 0b1]),
        (2, [3, 0, 1, 2, 1], [0b10010011, 0b01]),
        (3, [1, 2, 7], [0b11010001, 0b1]),
        (4, [1, 15, 7], [0xF1, 0x07]),
        (6, [63, 0, 1], [0b00111111, 0b00010000, 0]),
        (8, [200, 3], [200, 3]),
    ],
)
def test_least_significant_bit_comes_first(n_bits, indices, expected):
    assert_array_equal(pack(np.array(indices, np.uint8), n_bits), np.array(expected, np.uint8))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(WIDTHS), st.integers(0, 70), st.integers(0, 99))
def test_packing_is_a_bit_string_and_unpacks(n_bits, count, seed):
    indices = np.random.default_rng(seed).integers(0, 2**n_bits, count, dtype=np.uint8)
    bits = np.unpackbits(indices[:, None], axis=1, bitorder="little")[:, :n_bits]
    packed = pack(indices, n_bits)
    assert_array_equal(packed, np.packbits(bits, bitorder="little"))
    assert_array_equal(unpack(packed, n_bits, (count,)), indices)


@pytest.mark.parametrize("n_bits", WIDTHS)
def test_pieces_join_for_any_number_of_threads(n_bits):
    shape = (3, (1 << 20) - 1)
    indices = np.random.default_rng(0).integers(0, 2**n_bits, shape, dtype=np.uint8)
    one = pack(indices, n_bits, threads=1)
    assert_array_equal(pack(indices, n_bits, threads=3), one)
    assert_array_equal(unpack(one, n_bits, shape, threads=3), indices)


def test_wrong_sizes_are_named():
    with pytest.raises(SettingsError, match="expected 2 bytes"):
        unpack(np.zeros(3, np.uint8), 4, (3,))
    with pytest.raises(SettingsError, match="n_bits is 5"):
        pack(np.zeros(3, np.uint8), 5)
