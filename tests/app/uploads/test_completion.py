"""Completion of uploads: a model or nothing, however many requests there are."""

import asyncio

import httpx
import pytest
from safetensors.numpy import save

from palettery.app.errors import (
    BadInput,
    Conflict,
    InvalidModel,
    InvalidUpload,
    NotFound,
    PartsMissing,
    TooLarge,
    UploadExpired,
)
from palettery.app.http.caller import Caller
from palettery.app.models.service import model_id
from palettery.app.storage.open import open_storage
from palettery.app.uploads.parts import part_path
from palettery.schemas.keys import OwnerLimits
from palettery.schemas.uploads import MIN_PART_BYTES, FileToSend, NewUpload
from tests.app.stored_job import draws
from tests.app.uploads.conftest import (
    DAY,
    World,
    announced,
    check_only_models_are_left,
    completed,
    run,
)


@pytest.mark.parametrize("order", [(1, 2, 3, 4), (4, 3, 2, 1), (2, 4, 1, 3)])
def test_parts_in_any_order_make_a_model(world, large, order):
    upload = world.start(m=large)
    assert [part.number for part in upload.parts] == [1, 2, 3, 4]
    for number in order:
        run(world.send(upload, large, {number}))
    id_, is_new = completed(world, upload)
    assert is_new
    (file,) = world.model_repository.files("a", id_)
    assert world.store.read(file.path) == large
    assert id_ == model_id([("m", file.sha256)])
    assert completed(world, upload) == (id_, False)
    assert world.uploads.get(Caller("a"), upload.id, presign=False).state == "complete"
    check_only_models_are_left(world)


def test_parts_at_once_and_again(world, large):
    async def send():
        upload = world.start(m=large)
        await asyncio.gather(*(world.send(upload, large) for _ in range(3)))
        return await world.uploads.complete("a", upload.id)

    (file,) = world.model_repository.files("a", run(send())[0])
    assert world.store.read(file.path) == large
    check_only_models_are_left(world)


def test_missing_parts_are_named(world, large, small):
    upload = world.start(m=large, n=small)
    run(world.send(upload, large, {2, 4}))
    with pytest.raises(PartsMissing, match="3 parts have not come in") as caught:
        completed(world, upload)
    assert [error.pointer for error in caught.value.errors] == ["/parts/1", "/parts/3", "/parts/5"]
    assert "bytes 0 to 8,388,607 of m have not come in; PUT /v1/" in caught.value.errors[0].detail
    received = [
        part.is_received for part in world.uploads.get(Caller("a"), upload.id, presign=False).parts
    ]
    assert received == [False, True, False, True, False]


def test_file_with_another_digest_must_be_sent_again(world, large):
    upload = world.start(m=large, n=save(draws(1, w=(4, 8))))
    wrong = b"\0" * MIN_PART_BYTES
    run(world.put(upload, 2, wrong))
    run(world.send(upload, large, {1, 3, 4}))
    run(world.put(upload, 5, save(draws(1, w=(4, 8)))))
    with pytest.raises(InvalidUpload, match=r"^m has the SHA-256 .* parts, 1 to 4, were removed"):
        completed(world, upload)
    received = [
        part.is_received for part in world.uploads.get(Caller("a"), upload.id, presign=False).parts
    ]
    assert received == [False] * 4 + [True]
    assert world.left() == {part_path(upload.id, 5)}
    run(world.send(upload, large, {1, 2, 3, 4}))
    assert completed(world, upload)[1]
    check_only_models_are_left(world)


def test_invalid_model_leaves_the_upload_open(world):
    upload = world.start(m=b"no model at all")
    run(world.put(upload, 1, b"no model at all"))
    for _ in range(2):
        with pytest.raises(InvalidModel):
            completed(world, upload)
    assert world.left() == {part_path(upload.id, 1)}
    world.uploads.delete("a", upload.id)
    assert world.left() == set()


def test_files_that_the_owner_has_need_not_be_sent(world, large):
    first = world.start(m=large)
    run(world.send(first, large))
    id_, _ = completed(world, first)
    other = save(draws(2, w=(4, 8)))
    again = world.start(m=large, n=other)
    assert [file.is_present for file in again.files] == [True, False]
    assert [part.number for part in again.parts] == [5]
    run(world.put(again, 5, other))
    both, _ = completed(world, again)
    same = world.start(m=large)
    assert same.parts == ()
    assert completed(world, same) == (id_, True)
    paths = {file.path for file in world.model_repository.files("a", both)}
    assert {file.path for file in world.model_repository.files("a", id_)} < paths
    check_only_models_are_left(world)


def test_files_of_other_owners_must_be_sent_and_are_stored_once(world, large):
    upload = world.start(m=large)
    run(world.send(upload, large))
    id_, _ = completed(world, upload)
    other = world.start("b", m=large)
    assert len(other.parts) == 4
    with pytest.raises(PartsMissing):
        completed(world, other, "b")
    run(world.send(other, large, owner="b"))
    assert completed(world, other, "b") == (id_, True)
    assert world.model_repository.files("a", id_) == world.model_repository.files("b", id_)
    check_only_models_are_left(world)


def test_stored_file_that_is_missing_must_be_sent_again(world, large):
    upload = world.start(m=large)
    run(world.send(upload, large))
    id_, _ = completed(world, upload)
    (file,) = world.model_repository.files("a", id_)
    world.store.delete(file.path)
    again = world.start(m=large)
    run(world.send(again, large))
    assert completed(world, again) == (id_, True)
    (moved,) = world.model_repository.files("a", id_)
    assert world.store.read(moved.path) == large
    check_only_models_are_left(world)


def test_part_that_is_missing_must_be_sent_again(world, large):
    upload = world.start(m=large)
    run(world.send(upload, large))
    world.store.delete(part_path(upload.id, 2))
    with pytest.raises(PartsMissing, match="1 part has"):
        completed(world, upload)
    run(world.send(upload, large, {2}))
    assert completed(world, upload)[1]


def test_concurrent_completions_return_the_same_model(world, large):
    """Requests of two processes."""
    _, elsewhere = world.process()

    async def work():
        upload = world.start(m=large)
        await world.send(upload, large)
        requests = [one.complete("a", upload.id) for one in (world.uploads, elsewhere) * 3]
        return await asyncio.gather(*requests)

    for _ in range(3):
        ids = {id_ for id_, _ in run(work())}
        assert len(ids) == 1
        check_only_models_are_left(world)
        world.models.delete("a", ids.pop())
        assert world.left() == set()


def test_cancelled_completion_can_be_repeated(world, large):
    async def work():
        upload = world.start(m=large)
        await world.send(upload, large)
        request = asyncio.create_task(world.uploads.complete("a", upload.id))
        while not world.completion._running:
            await asyncio.sleep(0)
        await world.completion.stop()
        with pytest.raises(asyncio.CancelledError):
            await request
        return await world.uploads.complete("a", upload.id)

    id_, _ = run(work())
    world.expiry.remove_orphans(DAY * 0)
    check_only_models_are_left(world)
    assert world.store.read(world.model_repository.files("a", id_)[0].path) == large


def test_cancelled_request_does_not_stop_the_completion(world, large):
    async def work():
        upload = world.start(m=large)
        await world.send(upload, large)
        request = asyncio.create_task(world.uploads.complete("a", upload.id))
        while not world.completion._running:
            await asyncio.sleep(0)
        request.cancel()
        return await world.uploads.complete("a", upload.id)

    assert run(work())[0] == world.models.page("a", 1, None).items[0].id


def test_an_upload_that_is_deleted_or_expired_or_complete(world, small):
    upload = world.start(m=small)
    run(world.put(upload, 1, small))
    completed(world, upload)
    with pytest.raises(Conflict, match="takes no more parts"):
        run(world.put(upload, 1, small))
    second = world.start(m=save(draws(3, q=(2, 2))))
    world.now += 2 * DAY
    for ask in (
        lambda: run(world.put(second, 1, small)),
        lambda: completed(world, second),
        lambda: world.uploads.get(Caller("a"), second.id, presign=False),
        lambda: world.uploads.delete("a", second.id),
    ):
        with pytest.raises(UploadExpired):
            ask()
    third = world.start(m=save(draws(3, q=(2, 2))))
    world.uploads.delete("a", third.id)
    with pytest.raises(NotFound):
        completed(world, third)


def test_an_upload_that_is_deleted_while_it_is_completed(world, small):
    first = world.start(m=small)
    run(world.put(first, 1, small))
    completed(world, first)
    before = world.left()
    renamed = world.upload_repository.get("a", world.start(n=small).id)

    async def work():
        request = asyncio.create_task(world.completion.complete(renamed))
        while not world.completion._running:
            await asyncio.sleep(0)
        world.uploads.delete("a", renamed.id)
        return await request

    with pytest.raises(NotFound):
        run(work())
    assert world.left() == before


def announced_as(size_bytes, data):
    (file,) = announced(m=data).files
    wrong = file.model_copy(update={"size_bytes": size_bytes})
    return NewUpload(files=[wrong], part_size_bytes=MIN_PART_BYTES)


def test_wrong_size_of_a_file_that_the_owner_has(world, small):
    wrong = announced_as(5_000_000, small)
    early, _ = world.uploads.start(Caller("a"), wrong, None, presign=False)
    first = world.start(m=small)
    run(world.put(first, 1, small))
    completed(world, first)
    message = (
        f"^m was announced with 5,000,000 bytes, and .* has {len(small):,}; announce the right"
    )
    with pytest.raises(InvalidUpload, match=message) as caught:
        world.uploads.start(Caller("a"), wrong, None, presign=False)
    assert [error.pointer for error in caught.value.errors] == ["/files/0/size_bytes"]
    with pytest.raises(InvalidUpload, match=message):
        completed(world, early)
    assert world.uploads.get(Caller("a"), early.id, presign=False).state == "open"
    other, _ = world.uploads.start(Caller("b"), wrong, None, presign=False)
    assert not other.files[0].is_present  # files of other owners are not revealed


def test_limits_are_named(world, small):
    caller = Caller("a", limits=OwnerLimits(upload_bytes=len(small) - 1))
    with pytest.raises(TooLarge, match=f"{len(small):,} bytes; {len(small) - 1:,} are allowed"):
        world.uploads.start(caller, announced(m=small), None, presign=False)
    with pytest.raises(TooLarge, match="over 5 files"):
        world.start(**{f"m{number}": bytes([number]) for number in range(6)})
    file = FileToSend(name="m", size_bytes=MIN_PART_BYTES * 10_000 + 1, sha256="0" * 64)
    many = NewUpload(files=[file], part_size_bytes=MIN_PART_BYTES)
    with pytest.raises(BadInput, match="10,001 parts of 8,388,608 bytes, and 10,000 are allowed"):
        world.uploads.start(Caller("a"), many, None, presign=False)
    with pytest.raises(BadInput, match="has no presigned URLs; leave presign out"):
        world.uploads.start(Caller("a"), announced(m=small), None, presign=True)


@pytest.mark.parametrize("sizes", ["small", "large"])
def test_parts_sent_to_the_store_itself(database, object_store, monkeypatch, request, sizes):
    """Objects of the right size count; completion verifies their digests."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    world, data = World(database, open_storage(object_store.url)), request.getfixturevalue(sizes)
    upload, _ = world.uploads.start(Caller("a"), announced(m=data), None, presign=True)
    for part in upload.parts:
        assert part.url.startswith(object_store.endpoint)
        body = data[part.offset : part.offset + part.size_bytes]
        forged = part.url[:-4] + "0000"
        assert httpx.put(forged, content=body).status_code == 403
        wrong = b"?" * len(body) if part.number == 1 else body
        httpx.put(part.url, content=wrong).raise_for_status()
    response = world.uploads.get(Caller("a"), upload.id, presign=True)
    assert all(part.is_received for part in response.parts)
    with pytest.raises(InvalidUpload, match="were removed: send them again"):
        completed(world, upload)
    assert world.left() == set()
    for part in upload.parts:
        body = data[part.offset : part.offset + part.size_bytes]
        httpx.put(part.url, content=body).raise_for_status()
    id_, _ = completed(world, upload)
    assert world.store.read(world.model_repository.files("a", id_)[0].path) == data
    check_only_models_are_left(world)
