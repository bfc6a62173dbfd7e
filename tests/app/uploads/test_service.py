"""All stored bytes of an upload count toward the quota, whatever its owner had when it began."""

import asyncio

import pytest
from safetensors.numpy import save
from sqlalchemy import event
from starlette.datastructures import Headers

from palettery.app.errors import OverQuota
from palettery.app.http.caller import Caller
from palettery.app.keys.quota import usage
from palettery.app.uploads.parts import PARTS, part_path
from palettery.schemas.keys import OwnerLimits
from tests.app.stored_job import draws
from tests.app.uploads.conftest import digest_header

OTHER = save(draws(2, w=(4, 8)))


def run(work):
    return asyncio.run(work)


def stored(world):
    with world.database.transaction() as session:
        return usage(session, "a").stored_bytes


def had(world, data):
    """Make a model of these bytes; its id."""
    upload = world.start(m=data)
    run(world.put(upload, 1, data))
    return run(world.uploads.complete("a", upload.id))[0]


def parts(world):
    return [path for path in world.left() if path.startswith(PARTS)]


def test_files_that_are_gone_count_once_they_are_sent(world, small):
    limits = OwnerLimits(stored_bytes=2 * len(small))
    id_ = had(world, small)
    uploads = [world.start(m=small) for _ in range(4)]
    world.models.delete("a", id_)
    assert stored(world) == 0
    for upload in uploads[:2]:
        run(world.put(upload, 1, small, limits=limits))
    assert stored(world) == 2 * len(small)
    read = []

    async def body():
        read.append(small)
        yield small

    caller = Caller("a", limits=limits)
    for upload in uploads[2:]:
        with pytest.raises(OverQuota, match=f"{3 * len(small):,} stored bytes"):
            run(
                world.uploads.receive_part(
                    caller, upload.id, 1, Headers(digest_header(small)), body()
                )
            )
    assert read == []
    assert len(parts(world)) == 2
    assert stored(world) == 2 * len(small)
    run(world.uploads.complete("a", uploads[0].id))
    world.uploads.delete("a", uploads[1].id)
    assert stored(world) == len(small)


def test_parts_of_files_that_the_owner_has_count_too(world, small):
    had(world, small)
    upload = world.start(m=small)
    limits = OwnerLimits(stored_bytes=2 * len(small) - 1)
    with pytest.raises(OverQuota):
        run(world.put(upload, 1, small, limits=limits))
    assert parts(world) == []


def test_file_that_was_sent_counts_beside_one_as_large_that_is_gone(world, small):
    other = save(draws(9, x=(4, 8)))
    assert len(other) == len(small)
    id_ = had(world, small)
    upload = world.start(m=small, n=other)
    run(world.put(upload, 2, other))
    had(world, other)
    world.models.delete("a", id_)
    with pytest.raises(OverQuota):
        run(world.put(upload, 1, small, limits=OwnerLimits(stored_bytes=3 * len(small) - 1)))
    run(world.put(upload, 1, small, limits=OwnerLimits(stored_bytes=3 * len(small))))
    assert stored(world) == 3 * len(small)


def test_two_files_of_one_upload_at_once(world, small):
    """While the body of one comes in, the owner gets it elsewhere, and loses the other."""
    other = save(draws(9, x=(4, 8)))
    id_ = had(world, small)
    upload = world.start(m=small, n=other)
    limits = OwnerLimits(stored_bytes=3 * len(small) - 1)

    async def body():
        yield other[:9]
        await asyncio.to_thread(had_in_thread)
        yield other[9:]

    def had_in_thread():
        had(world, other)
        world.models.delete("a", id_)
        run(world.put(upload, 1, small, limits=limits))

    headers = Headers(digest_header(other))
    caller = Caller("a", limits=limits)
    with pytest.raises(OverQuota):
        run(world.uploads.receive_part(caller, upload.id, 2, headers, body()))
    assert parts(world) == [part_path(upload.id, 1)]
    assert world.upload_repository.part_digests(upload.id).keys() == {1}


def test_nothing_more_is_written_for_what_counts_already(world, small):
    had(world, small)
    upload = world.start(m=small, n=OTHER)
    before, written = stored(world), []
    limits = OwnerLimits(stored_bytes=before)

    def note(_connection, _cursor, statement, *_):
        written.extend([statement] if "owners" in statement or "missing" in statement else [])

    world.upload_repository.get("a", upload.id)
    event.listen(world.database.engine, "before_cursor_execute", note)
    run(world.put(upload, 2, OTHER, limits=limits))
    assert [each for each in written if not each.startswith("SELECT")] == []
    assert written, "the upload's own row is read"
    assert stored(world) == before
