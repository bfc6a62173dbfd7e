"""The check of running work: it raises once the marker is there, and seldom asks the store."""

import pytest

from palettery.app.compression import cancellation
from palettery.app.compression.cancellation import CHECK_INTERVAL_S, CancellationCheck
from palettery.app.errors import Cancelled
from palettery.app.storage.open import open_storage


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(cancellation.time, "monotonic", lambda: now[0])
    return now


def test_it_raises_at_the_next_read_of_the_store(tmp_path, clock):
    store = open_storage(tmp_path.as_uri())
    check = CancellationCheck(store, "jobs/1/stop")
    check()
    store.write("jobs/1/stop", b"")
    check()
    clock[0] += CHECK_INTERVAL_S
    with pytest.raises(Cancelled, match="stopped while it ran"):
        check()
    with pytest.raises(Cancelled):
        check.check_now()


def test_work_without_a_marker_is_never_cancelled(tmp_path, clock):
    check = CancellationCheck(open_storage(tmp_path.as_uri()), None)
    clock[0] += CHECK_INTERVAL_S
    check()
    check.check_now()
