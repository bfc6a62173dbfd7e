"""The contract of `Storage`, on a real folder and a real S3-compatible server."""

import asyncio
import hashlib
import os
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from palettery.app.errors import BadInput, ObjectMissing, StorageFailed
from palettery.app.storage.base import CHUNK_BYTES
from palettery.app.storage.open import open_storage

BODY = os.urandom(1 << 20) * 26


def pieces(data, size_bytes=1 << 20):
    return (data[start : start + size_bytes] for start in range(0, len(data), size_bytes))


async def stream(data):
    for piece in pieces(data):
        await asyncio.sleep(0)
        yield piece


@pytest.mark.parametrize("data", [b"", b"a few", BODY], ids=["none", "few", "many"])
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
    store.write("a", BODY)
    assert store.read("a", 5, 7) == BODY[5:12]
    assert store.read("a", len(BODY) - 3, 3) == BODY[-3:]
    assert store.read("a", len(BODY) - 3) == BODY[-3:]
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
    store.write("a", BODY)
    store.write("b", store.chunks("a", 0, len(BODY)))
    assert store.read("b") == BODY


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
    (copy,) = (entry for entry in store.list_objects("") if entry.path == "b")
    assert abs(datetime.now(UTC) - copy.modified_at) < timedelta(minutes=1)


def test_objects_are_joined(store):
    for path, data in (("1", BODY), ("2", b""), ("3", b"tail")):
        store.write(path, data)
    digest = asyncio.run(store.join(["1", "2", "3", "1"], "deep/er/all"))
    assert store.read("deep/er/all") == BODY + b"tail" + BODY
    assert digest.hexdigest() == hashlib.sha256(BODY + b"tail" + BODY).hexdigest()
    assert asyncio.run(store.join(["3"], "1")).hexdigest() == hashlib.sha256(b"tail").hexdigest()
    assert store.read("1") == b"tail"


def test_joining_what_is_not_there_leaves_nothing(store, unfinished):
    store.write("a", BODY)
    with pytest.raises(ObjectMissing, match="nothing is stored at b"):
        asyncio.run(store.join(["a", "b"], "c"))
    assert store.list("") == ["a"]
    assert unfinished() == []


def test_a_listing_shows_size_and_time(store):
    store.write("x/a", b"123")
    store.write("x/y/b", b"")
    store.write("xy", b"1")
    entries = {entry.path: entry for entry in store.list_objects("x")}
    assert {path: entry.size_bytes for path, entry in entries.items()} == {"x/a": 3, "x/y/b": 0}
    for entry in entries.values():
        assert abs(datetime.now(UTC) - entry.modified_at) < timedelta(minutes=1)
    assert list(store.list_objects("z")) == []
    assert sorted(store.list("")) == ["x/a", "x/y/b", "xy"]


def test_deletion(store):
    for path in ("a", "b/c", "b/d"):
        store.write(path, b"1")
    store.delete()
    store.delete("a", "never/was", "b/c", "a")
    assert store.list("") == ["b/d"]
    store.delete_folder("nothing")
    store.delete_folder("b")
    assert store.list("") == []


def test_a_source_that_fails_leaves_nothing(store, unfinished):
    def failing():
        yield from pieces(BODY)
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
    assert unfinished() == []


def test_a_cancelled_write_leaves_nothing(store, unfinished):
    async def run():
        waits = asyncio.Event()

        async def endless():
            for piece in pieces(BODY):
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
    assert unfinished() == []


def test_the_store_answers(store):
    assert store.health_problem() is None


def test_an_object_exists_until_it_is_deleted(store):
    assert not store.exists("a/b")
    store.write("a/b", b"")
    assert store.exists("a/b")
    store.delete("a/b")
    assert not store.exists("a/b")


def test_finished_objects_are_no_unfinished_writes(store):
    store.write("a/b", b"1")
    after = datetime.now(UTC) + timedelta(days=1)
    assert store.delete_unfinished("a", after) == store.delete_unfinished("none", after) == 0
    assert store.list("") == ["a/b"]


def test_capacity_is_unknown_or_has_free_space(store):
    capacity = store.capacity()
    assert capacity is None or 0 < capacity.free_bytes < capacity.size_bytes


def test_presigned_urls_write_where_the_store_has_them(store):
    paths, valid_for = ["a", "b c"], timedelta(minutes=1)
    if not store.supports_presigned_urls:
        with pytest.raises(BadInput, match="no presigned URLs"):
            store.presigned_put_urls(paths, valid_for)
        return
    for path, url in zip(paths, store.presigned_put_urls(paths, valid_for), strict=True):
        assert httpx.put(url, content=path.encode()).is_success
        assert store.read(path) == path.encode()


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "/a/b", "", "s3://", "s3:///a", "file://a/b", "file:a", "memory:///"]
)
def test_an_invalid_url_is_refused(url):
    with pytest.raises(BadInput):
        open_storage(url)


def test_a_refused_url_names_the_valid_schemes():
    with pytest.raises(BadInput, match=r"'ftp'.* file://, s3://, gs://, az://"):
        open_storage("ftp://a/b")
