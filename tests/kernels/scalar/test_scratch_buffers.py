"""Scratch arrays: they grow, and each thread has its own."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from palettery.kernels.float16 import CODES
from palettery.kernels.scalar.scratch_buffers import ScratchBuffers


def test_arrays_have_the_shape_asked_for_and_are_used_again():
    buffers = ScratchBuffers()
    large, small = buffers.keys(100), buffers.keys(7)
    assert (large.shape, small.shape) == ((2, 100), (2, 7))
    assert np.shares_memory(large, small)
    assert buffers.sums(9).shape == (3, 10)
    assert buffers.sums(3).shape == (3, 4)
    assert [array.dtype for array in buffers.points(5)] == [np.float32, np.float64, np.uint16]
    for table in (buffers.counts(), buffers.masses()):
        assert (table.shape, table.any()) == ((CODES,), False)


def test_each_thread_has_its_own():
    buffers = ScratchBuffers()
    here = buffers.counts()
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(buffers.counts).result()
    assert not np.shares_memory(here, there)
