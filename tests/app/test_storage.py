"""Every kind of store, on a real folder and a real S3-compatible server."""

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.errors import BadInput, ObjectMissing, StorageFailed, StorageFull
from app.storage import CHUNK_BYTES, bucket, open_storage
from tests.fault_proxy import Cut, Pass, Refuse, Slow, Stall, Unavailable
from tests.object_store import wait_until

LARGE = os.urandom(1 << 20) * 30


@pytest.fixture
def folder(tmp_path):
    return open_storage((tmp_path / "store").as_uri())


@pytest.fixture
def server(object_store, monkeypatch):
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    return object_store


@pytest.fixture(params=["folder", "server"])
def store(request):
    where = request.getfixturevalue(request.param)
    return open_storage(where.url)


def pieces(data, size_bytes=1 << 20):
    return (data[start : start + size_bytes] for start in range(0, len(data), size_bytes))


async def stream(data):
    for piece in pieces(data):
        await asyncio.sleep(0)
        yield piece


@pytest.mark.parametrize("data", [b"", b"a few", LARGE], ids=["none", "few", "many"])
@pytest.mark.parametrize("how", ["whole", "view", "pieces", "stream"])
def test_what_is_written_is_read(store, data, how):
    if how == "stream":
        asyncio.run(store.write_stream("a/b", stream(data)))
    else:
        store.write("a/b", {"whole": data, "view": memoryview(data), "pieces": pieces(data)}[how])
    assert store.read("a/b") == data
    assert store.size_bytes("a/b") == len(data)
    assert b"".join(store.chunks("a/b", 0, len(data))) == data
    assert store.list("") == ["a/b"]


def test_ranges(store):
    store.write("a", LARGE)
    assert store.read("a", 5, 7) == LARGE[5:12]
    assert store.read("a", len(LARGE) - 3, 3) == LARGE[-3:]
    assert store.read("a", len(LARGE) - 3) == LARGE[-3:]
    assert store.read("a", 4, 0) == b""
    assert [len(chunk) for chunk in store.chunks("a", 1, CHUNK_BYTES + 1)] == [CHUNK_BYTES, 1]
    assert store.read("a", 0, 9).readonly


@pytest.mark.parametrize(("offset", "size_bytes"), [(0, 6), (4, 2), (5, 1), (900, 1), (0, 1 << 50)])
def test_a_range_behind_the_end_is_missing(store, offset, size_bytes):
    store.write("a", b"12345")
    with pytest.raises(ObjectMissing, match="a ends"):
        store.read("a", offset, size_bytes)


def test_nothing_is_at_an_unused_path(store):
    store.write("a/b", b"")
    for path in ("c", "a", "a/b/c"):
        assert not store.exists(path)
        for ask in (store.read, store.size_bytes, lambda path: store.copy(path, "d")):
            with pytest.raises((ObjectMissing, StorageFailed)):
                ask(path)
    with pytest.raises(ObjectMissing, match="nothing is stored at c"):
        store.read("c")
    assert store.list("") == ["a/b"]


def test_a_write_replaces(store):
    store.write("a", b"first")
    store.write("a", b"second")
    assert store.read("a") == b"second"


def test_a_write_may_read_its_store_meanwhile(store):
    store.write("a", LARGE)
    store.write("b", store.chunks("a", 0, len(LARGE)))
    assert store.read("b") == LARGE


def test_a_copy_is_an_object_of_its_own(store):
    store.write("a", b"first")
    store.copy("a", "deep/er/b")
    store.copy("a", "a")
    store.copy("a", "deep/er/b")
    store.write("a", b"second")
    assert store.read("deep/er/b") == b"first"
    store.delete("a")
    assert store.read("deep/er/b") == b"first"
    assert store.list("") == ["deep/er/b"]


def test_a_copy_counts_as_modified_when_it_was_made(store):
    store.write("a", b"1")
    if hasattr(store, "root"):
        os.utime(store.root / "a", (0, 0))
    store.copy("a", "b")
    (copy,) = (found for found in store.listed("") if found.path == "b")
    assert abs(datetime.now(UTC) - copy.modified_at) < timedelta(minutes=1)


def test_an_object_too_large_to_copy_at_once_is_copied_in_parts(server, monkeypatch):
    monkeypatch.setattr(bucket, "MOST_COPIED_BYTES", len(LARGE) - 1)
    store = open_storage(server.url)
    monkeypatch.delattr(bucket.obstore, "copy")
    store.write("a", LARGE)
    store.copy("a", "b")
    assert store.read("b") == LARGE


def test_a_move_leaves_nothing_behind(store):
    store.write("a/b", b"1")
    store.move("a/b", "c")
    assert (store.list(""), store.read("c")) == (["c"], b"1")


def test_a_listing_shows_size_and_time(store):
    store.write("x/a", b"123")
    store.write("x/y/b", b"")
    store.write("xy", b"1")
    found = {entry.path: entry for entry in store.listed("x")}
    assert {path: entry.size_bytes for path, entry in found.items()} == {"x/a": 3, "x/y/b": 0}
    for entry in found.values():
        assert abs(datetime.now(UTC) - entry.modified_at) < timedelta(minutes=1)
    assert list(store.listed("z")) == []
    assert sorted(store.list("")) == ["x/a", "x/y/b", "xy"]


def test_a_listing_of_many_pages_is_whole(server):
    store = open_storage(server.url)
    paths = [f"n/{number:04}" for number in range(1_050)]
    for path in paths:
        store.write(path, b"")
    assert sorted(store.list("n")) == paths
    store.delete_folder("n")
    assert store.list("") == []


def test_deletion(store):
    for path in ("a", "b/c", "b/d"):
        store.write(path, b"1")
    store.delete()
    store.delete("a", "never/was", "b/c", "a")
    assert store.list("") == ["b/d"]
    store.delete_folder("nothing")
    store.delete_folder("b")
    assert store.list("") == []


def test_a_source_that_fails_leaves_nothing(store, object_store):
    def failing():
        yield from pieces(LARGE)
        raise BadInput("the source failed")

    async def failing_stream():
        for piece in failing():
            yield piece

    store.write("a", b"before")
    with pytest.raises(BadInput, match="the source failed"):
        store.write("a", failing())
    with pytest.raises(BadInput, match="the source failed"):
        asyncio.run(store.write_stream("b", failing_stream()))
    assert (store.list(""), store.read("a")) == (["a"], b"before")
    assert object_store.unfinished_uploads() == []
    if hasattr(store, "root"):
        assert [file.name for file in store.root.rglob("*")] == ["a"]


def test_a_cancelled_write_leaves_nothing(store, object_store):
    async def run():
        waits = asyncio.Event()

        async def endless():
            for piece in pieces(LARGE):
                yield piece
            waits.set()
            await asyncio.Event().wait()

        writing = asyncio.create_task(store.write_stream("a", endless()))
        await asyncio.wait_for(waits.wait(), 30)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing

    asyncio.run(run())
    assert store.list("") == []
    assert object_store.unfinished_uploads() == []
    if hasattr(store, "root"):
        assert list(store.root.rglob("*")) == []


def test_the_store_is_reachable(store):
    assert store.is_reachable()


def test_no_path_leaves_the_folder(folder):
    for path in ("../a", "/a", "a/../../b", "a//b", "", "a\0b", "."):
        for ask in (folder.read, folder.delete, lambda path: folder.write(path, b"")):
            with pytest.raises(StorageFailed, match="is no path in the store"):
                ask(path)
    assert not (folder.root.parent / "a").exists()


def test_no_empty_folder_is_left(folder):
    for path in ("a/b/c", "a/d/e", "f/g/h/i"):
        folder.write(path, b"")
    folder.delete("a/b/c")
    folder.delete_folder("f/g")
    assert sorted(file.name for file in folder.root.rglob("*")) == ["a", "d", "e"]
    folder.delete_folder("")
    assert list(folder.root.iterdir()) == []


def test_writers_and_deleters_of_one_folder_do_not_disturb_each_other(folder):
    def work(name):
        for _ in range(200):
            folder.write(f"a/b/{name}", b"1")
            folder.delete(f"a/b/{name}")

    failures = []
    threads = [threading.Thread(target=_noting(failures, work), args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(folder.root.iterdir()) == []


def _noting(failures, work):
    def run(*arguments):
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001 - the test's thread tells of it
            failures.append(error)

    return run


def test_what_a_crash_left_is_found_by_age_and_shown_to_nobody(folder):
    folder.write("a/b", b"1")
    for name, age_s in (("a/b", 100), ("a/c", 5), ("d/e", 100)):
        place = folder.root / f"{name}.{'0' * 32}.aside"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"half")
        then = datetime.now(UTC).timestamp() - age_s
        os.utime(place, (then, then))
    assert folder.list("") == ["a/b"]
    before = datetime.now(UTC) - timedelta(seconds=50)
    assert folder.delete_unfinished("", before) == 2
    left = sorted(file.name for file in folder.root.rglob("*"))
    assert left == ["a", "b", f"c.{'0' * 32}.aside"]
    assert folder.delete_unfinished("a", datetime.now(UTC)) == 1


def test_holes_read_as_zeros(folder):
    with (folder.root / "a").open("wb") as file:
        file.truncate(1 << 20)
    assert folder.read("a", 5, 1_000) == bytes(1_000)


def test_a_full_disk_says_so(folder):
    with pytest.raises(StorageFull, match="free some space"):
        folder.write("a", _full())
    assert list(folder.root.rglob("*")) == []


def _full():
    with Path("/dev/full").open("wb", buffering=0) as device:
        yield b"1"
        device.write(b"2")


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "/a/b", "", "s3://", "s3:///a", "file://a/b", "file:a", "memory:///"]
)
def test_a_url_of_no_store_is_refused(url):
    with pytest.raises(BadInput):
        open_storage(url)


def test_a_refused_url_names_the_kinds_of_store():
    with pytest.raises(BadInput, match=r"'ftp'.* file://, s3://, gs://, az://"):
        open_storage("ftp://a/b")


def test_wrong_credentials_say_what_to_check_and_nothing_secret(server, monkeypatch):
    open_storage(server.url).write("a", b"1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    store = open_storage(server.url)
    for ask in (store.read, store.size_bytes, lambda path: store.write(path, b"2"), store.delete):
        with pytest.raises(StorageFailed, match="AWS_SECRET_ACCESS_KEY") as caught:
            ask("a")
        for secret in ("not-the-secret", server.environment["AWS_ACCESS_KEY_ID"], "127.0.0.1"):
            assert secret not in str(caught.value)
    assert not store.is_reachable()


@pytest.mark.usefixtures("server")
def test_a_bucket_that_is_not_there_is_named():
    store = open_storage("s3://no-such-bucket/prefix")
    for ask in (store.read, store.list, lambda path: store.write(path, b"")):
        with pytest.raises(StorageFailed, match="no bucket 'no-such-bucket'"):
            ask("a")
    assert not store.is_reachable()


def test_an_endpoint_without_tls_must_be_allowed(server, monkeypatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StorageFailed, match="AWS_ALLOW_HTTP"):
        open_storage(server.url).read("a")


@pytest.fixture
def proxied(faulty_object_store, monkeypatch):
    """A store behind the proxy, holding an object."""
    for name, value in faulty_object_store.environment.items():
        monkeypatch.setenv(name, value)
    store = open_storage(faulty_object_store.url)
    store.write("a", LARGE)
    return store


def read(store):
    assert store.read("a") == LARGE


def read_range(store):
    assert store.read("a", 1 << 20, 9 << 20) == LARGE[1 << 20 : 10 << 20]


def write(store):
    store.write("b", LARGE[: 9 << 20])
    assert store.read("b") == LARGE[: 9 << 20]


def write_parts(store):
    store.write("b", pieces(LARGE))
    assert store.read("b") == LARGE


def copy(store):
    store.copy("a", "b")
    assert store.size_bytes("b") == len(LARGE)


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
            wait_until(lambda: not store.is_reachable())
        else:
            wait_until(lambda: proxy.faults >= faults or done.done())
        assert not done.done()
        proxy.behave(Pass())
        done.result(60)


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
    assert not proxied.is_reachable()
    fault_proxy.behave(Pass())
    assert proxied.is_reachable()


@pytest.mark.parametrize("behaviour", [Unavailable(), Refuse()], ids=str)
def test_a_store_that_stays_away_fails_the_work(proxied, fault_proxy, behaviour, monkeypatch):
    monkeypatch.setattr(bucket, "PERSIST_S", 0.5)
    store = open_storage(proxied.url)
    fault_proxy.behave(behaviour)
    for work in WORK:
        with pytest.raises(StorageFailed, match="the store failed at") as caught:
            work(store)
        assert "127.0.0.1" not in str(caught.value)


@pytest.mark.heavy
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_work_outlives_a_stall_longer_than_the_silence_it_bears(
    proxied, fault_proxy, monkeypatch, work
):
    monkeypatch.setattr(bucket, "SILENCE_S", 1.0)
    monkeypatch.setattr(bucket, "COPY_SILENCE_S", 1.0)
    outlives(open_storage(proxied.url), fault_proxy, Stall(), work, faults=3)


@pytest.mark.heavy
def test_twenty_seconds_without_a_store_cost_a_delay(proxied, fault_proxy, faulty_object_store):
    for behaviour in (Unavailable(), Refuse(), Stall()):
        fault_proxy.behave(behaviour)
        ends = time.monotonic() + 20
        with ThreadPoolExecutor(3) as pool:
            done = [pool.submit(work, proxied) for work in (read, read_range, write_parts)]
            while time.monotonic() < ends:
                assert not proxied.is_reachable()
            assert not any(one.done() for one in done)
            fault_proxy.behave(Pass())
            for one in done:
                one.result(60)
        assert faulty_object_store.unfinished_uploads() == []
