"""A transfer is slow if a whole window passes with fewer than the minimum of bytes."""

from palettery.app.http.transfer_rate import TransferRate


def rate():
    transfer = TransferRate(window_s=10, min_bytes=100)
    transfer.restart(0)
    return transfer


def test_too_few_bytes_in_a_window():
    transfer = rate()
    transfer.move(99)
    assert not transfer.is_slow(9.9)
    assert transfer.is_slow(10)


def test_enough_bytes_start_a_new_window():
    transfer = rate()
    transfer.move(100)
    assert not transfer.is_slow(9)
    assert not transfer.is_slow(18.9)
    assert transfer.is_slow(19)


def test_restart_discards_what_moved_before():
    transfer = rate()
    transfer.move(99)
    transfer.restart(5)
    transfer.move(1)
    assert transfer.is_slow(15)


def test_only_a_decrease_of_the_backlog_counts():
    transfer = rate()
    transfer.set_backlog(1_000)
    transfer.set_backlog(5_000)
    transfer.set_backlog(4_901)
    assert transfer.is_slow(10)
    transfer.set_backlog(4_900)
    assert not transfer.is_slow(10)
