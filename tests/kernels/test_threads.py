"""Pieces of work in threads: their order, and what ends them."""

import threading

import pytest

from palettery.kernels.threads import available_threads, parallel_map


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_the_pieces(threads):
    assert parallel_map(str, range(20), threads) == [str(n) for n in range(20)]
    assert parallel_map(str, [], threads) == []


def test_threads_are_no_more_than_pieces():
    here = threading.get_ident()
    assert parallel_map(lambda _: threading.get_ident(), [1], 8) == [here]


@pytest.mark.parametrize("threads", [1, 3])
def test_check_is_called_before_the_first_piece_and_after_each(threads):
    calls = []
    parallel_map(str, range(4), threads, lambda: calls.append(threading.get_ident()))
    assert calls == [threading.get_ident()] * 5


@pytest.mark.parametrize("threads", [1, 3])
def test_what_check_raises_ends_the_work(threads):
    left = iter(range(2))

    def check():
        if next(left, None) is None:
            raise InterruptedError

    before = set(threading.enumerate())
    with pytest.raises(InterruptedError):
        parallel_map(str, range(1_000), threads, check)
    assert set(threading.enumerate()) <= before


def test_there_is_a_core():
    assert available_threads() >= 1
