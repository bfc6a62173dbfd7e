"""A bucket's store that is away, slow or cut off, behind a proxy that makes it so."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from palettery.app.errors import StorageFailed
from palettery.app.storage import bucket
from palettery.app.storage.open import open_storage
from tests.fault_proxy import Cut, Pass, Refuse, Slow, Stall, Unavailable
from tests.object_store import wait_until

pytestmark = pytest.mark.heavy

BODY = bytes(range(256)) * 4096 * 26


@pytest.fixture
def proxied(faulty_object_store, monkeypatch):
    """A store behind the proxy, holding an object."""
    for name, value in faulty_object_store.environment.items():
        monkeypatch.setenv(name, value)
    store = open_storage(faulty_object_store.url)
    store.write("a", BODY)
    return store


def read(store):
    assert store.read("a") == BODY


def read_range(store):
    assert store.read("a", 1 << 20, 9 << 20) == BODY[1 << 20 : 10 << 20]


def write(store):
    store.write("b", BODY[: 9 << 20])
    assert store.read("b") == BODY[: 9 << 20]


def write_parts(store):
    store.write("b", (BODY[start : start + (1 << 20)] for start in range(0, len(BODY), 1 << 20)))
    assert store.read("b") == BODY


def copy(store):
    store.copy("a", "b")
    assert store.size_bytes("b") == len(BODY)


def list_all(store):
    assert store.list("") == ["a"]


def delete(store):
    store.delete("a", "b")
    assert not store.exists("a")


WORK = (read, read_range, write, write_parts, copy, list_all, delete)
BODIES = (read, read_range, write, write_parts)


def outlives(store, proxy, behaviour, work, *, faults=1):
    """The work meets the behaviour, which then ends, and is done all the same."""
    proxy.behave(behaviour)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work, store)
        if isinstance(behaviour, Refuse):
            wait_until(store.health_problem)
        else:
            wait_until(lambda: proxy.faults >= faults or done.done())
        assert not done.done()
        proxy.behave(Pass())
        done.result(60)


def is_away(store):
    assert store.health_problem()
    return True


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
@pytest.mark.parametrize("behaviour", [Unavailable(), Refuse(), Stall()], ids=str)
def test_work_waits_for_a_store_that_is_away(
    proxied, fault_proxy, faulty_object_store, behaviour, work
):
    outlives(proxied, fault_proxy, behaviour, work)
    assert faulty_object_store.unfinished_uploads() == []


@pytest.mark.parametrize("work", BODIES, ids=lambda work: work.__name__)
def test_work_outlives_a_body_that_is_cut(proxied, fault_proxy, faulty_object_store, work):
    outlives(proxied, fault_proxy, Cut(after_bytes=3 << 20), work)
    assert faulty_object_store.unfinished_uploads() == []


@pytest.mark.parametrize("work", [read, write_parts], ids=lambda work: work.__name__)
def test_work_on_a_slow_store_gets_done(proxied, fault_proxy, work):
    fault_proxy.behave(Slow(bytes_per_s=100 << 20))
    work(proxied)
    assert fault_proxy.faults


@pytest.mark.parametrize("behaviour", [Unavailable(), Refuse(), Stall()], ids=str)
def test_a_store_that_is_away_is_unreachable_until_it_is_back(proxied, fault_proxy, behaviour):
    fault_proxy.behave(behaviour)
    assert proxied.health_problem()
    fault_proxy.behave(Pass())
    assert proxied.health_problem() is None


@pytest.mark.parametrize("behaviour", [Unavailable(), Refuse()], ids=str)
def test_a_store_that_stays_away_fails_the_work(proxied, fault_proxy, behaviour, monkeypatch):
    monkeypatch.setattr(bucket, "RETRY_S", 0.2)
    store = open_storage(proxied.url)
    fault_proxy.behave(behaviour)
    for work in WORK:
        with pytest.raises(StorageFailed, match="the store failed at") as caught:
            work(store)
        assert "127.0.0.1" not in str(caught.value)


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_work_outlives_a_stall_longer_than_the_silence_it_bears(
    proxied, fault_proxy, monkeypatch, work
):
    monkeypatch.setattr(bucket, "READ_TIMEOUT_S", 1.0)
    monkeypatch.setattr(bucket, "COPY_READ_TIMEOUT_S", 1.0)
    outlives(open_storage(proxied.url), fault_proxy, Stall(), work, faults=3)


def test_twenty_seconds_without_a_store_cost_a_delay(proxied, fault_proxy, faulty_object_store):
    behaviours = (Unavailable(), Refuse(), Stall())
    fault_proxy.behave(behaviours[0])
    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(work, proxied) for work in (read, read_range, write_parts)]
        for behaviour in behaviours:
            fault_proxy.behave(behaviour)
            ends = time.monotonic() + 20 / len(behaviours)
            wait_until(lambda end=ends: is_away(proxied) and time.monotonic() > end)
        assert not any(one.done() for one in done)
        fault_proxy.behave(Pass())
        for one in done:
            one.result(60)
    assert faulty_object_store.unfinished_uploads() == []
