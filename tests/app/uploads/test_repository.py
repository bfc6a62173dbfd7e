"""Rows of uploads, on every supported database."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text

from palettery.app.errors import Conflict, IdempotencyConflict, NotFound, OverQuota, UploadExpired
from palettery.app.http.caller import Caller
from palettery.app.http.idempotency import keyed_request
from palettery.app.settings import Limits
from palettery.app.uploads.repository import UploadRepository, set_model
from palettery.schemas.keys import OwnerLimits
from tests.app.uploads.conftest import DAY, announced
from tests.databases import KINDS

pytestmark = pytest.mark.databases(*KINDS)

MINUTE = timedelta(minutes=1)
MODEL = "c" * 64
HEX = "d" * 64
LIMITED = Caller("a", limits=OwnerLimits(queued_jobs=1))


def add(world, owner="a", key=None, data=b"123", limits=None, missing_bytes=3):
    request = keyed_request(key, data.decode())
    caller = Caller(owner, limits=limits or OwnerLimits())
    return world.upload_repository.add(caller, announced(m=data), missing_bytes, request)


def counted(world, table):
    with world.database.transaction() as session:
        return session.scalar(text(f"SELECT count(*) FROM {table}"))  # noqa: S608


def complete(world, upload_id):
    with world.database.transaction() as session:
        set_model(session, upload_id, MODEL)


def test_an_upload_is_its_owners(world):
    upload, is_new = add(world)
    assert is_new
    assert world.upload_repository.get("a", upload.id) == upload
    for owner, upload_id in (("b", upload.id), ("a", "x"), ("a", "\0"), ("a", "0" * 36)):
        with pytest.raises(NotFound, match="there is no upload"):
            world.upload_repository.get(owner, upload_id)
    assert [upload.id for upload in world.upload_repository.page("a", 9, None)] == [upload.id]
    assert world.upload_repository.page("b", 9, None) == []


def test_it_stays_open_after_the_last_part(world):
    upload, _ = add(world)
    world.now += DAY - MINUTE
    world.upload_repository.add_part(upload.id, 1, HEX)
    world.now += DAY - MINUTE
    assert world.upload_repository.get("a", upload.id).model_id is None
    assert world.upload_repository.delete_expired() == []
    world.now += 2 * MINUTE
    with pytest.raises(UploadExpired, match="expired at 20"):
        world.upload_repository.get("a", upload.id)
    assert world.upload_repository.page("a", 9, None) == []
    assert world.upload_repository.delete_expired() == [upload.id]
    with pytest.raises(NotFound):
        world.upload_repository.get("a", upload.id)
    assert counted(world, "upload_parts") == 0


def test_parts_come_and_go(world):
    upload, _ = add(world)
    for number, digest in ((3, HEX), (1, HEX), (3, MODEL), (2, HEX)):
        world.upload_repository.add_part(upload.id, number, digest)
    assert world.upload_repository.part_digests(upload.id) == {1: HEX, 2: HEX, 3: MODEL}
    assert world.upload_repository.part_digest(upload.id, 3) == MODEL
    world.upload_repository.delete_parts(upload.id, [1, 3])
    assert world.upload_repository.part_digests(upload.id) == {2: HEX}
    assert world.upload_repository.part_digest(upload.id, 3) is None


def test_a_part_of_an_upload_that_is_no_more(world):
    upload, _ = add(world)
    world.upload_repository.delete(upload.id)
    with pytest.raises(NotFound):
        world.upload_repository.add_part(upload.id, 1, HEX)


def test_a_complete_upload_takes_no_parts(world):
    upload, _ = add(world)
    world.upload_repository.add_part(upload.id, 1, HEX)
    assert world.upload_repository.open_ids([upload.id, "x", "0" * 36]) == {upload.id}
    complete(world, upload.id)
    complete(world, upload.id)
    assert world.upload_repository.get("a", upload.id).model_id == MODEL
    assert world.upload_repository.open_ids([upload.id]) == set()
    assert world.upload_repository.part_digests(upload.id) == {}
    with pytest.raises(Conflict, match="takes no more parts"):
        world.upload_repository.add_part(upload.id, 1, HEX)


def test_what_was_removed_cannot_be_completed(world):
    with pytest.raises(NotFound):
        complete(world, "0" * 36)


def test_the_same_key_gives_the_same_upload(world):
    first, _ = add(world, key="k")
    assert add(world, key="k") == (first, False)
    assert add(world, "b", key="k")[1], "keys are an owner's own"
    with pytest.raises(IdempotencyConflict):
        add(world, key="k", data=b"other")
    world.now += DAY + MINUTE
    again, is_new = add(world, key="k", data=b"other")
    assert is_new, "the first has expired"
    assert again.id != first.id


def test_threads_with_the_same_key(world):
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda _: add(world, key="k"), range(8)))
    assert len({upload.id for upload, _ in added}) == 1
    assert sum(is_new for _, is_new in added) == 1


def test_what_is_announced_counts_until_it_is_complete(world):
    limits = OwnerLimits(stored_bytes=5)
    first, _ = add(world, limits=limits)
    with pytest.raises(OverQuota, match="a would have 6 stored bytes; 5 are allowed"):
        add(world, limits=limits)
    add(world, limits=limits, missing_bytes=0)
    add(world, "b", limits=limits)
    world.upload_repository.delete(first.id)
    add(world, limits=limits)


def test_pages_newest_first_also_of_the_same_moment(world):
    for number in range(6):
        world.now += MINUTE * (number % 2)
        add(world)
    seen, before = [], None
    while page := world.upload_repository.page("a", 2, before):
        seen += page
        before = (page[-1].created_at, page[-1].id)
    keys = [(upload.created_at, upload.id) for upload in seen]
    assert len(keys) == 6
    assert keys == sorted(set(keys), reverse=True)


def test_pages_have_summaries_that_read_no_files(world):
    upload = world.upload_repository.add(Caller("a"), announced(x=b"1", y=b"23"), 3)[0]
    (response,) = world.upload_repository.page("a", 2, None)
    assert (response.id, response.name, response.file_count, response.size_bytes) == (
        upload.id,
        "x",
        2,
        3,
    )
    assert not hasattr(response, "files")


def limited(world, **limits):
    return UploadRepository(world.database, DAY, lambda: world.now, Limits(**limits))


def test_open_uploads_of_an_owner_are_limited_by_number(world):
    repository = limited(world, open_uploads=2)
    uploads = [repository.add(Caller("a"), announced(x=bytes([n])), 1)[0] for n in range(2)]
    message = r"a would have 3 uploads .* 2 are allowed: .*PALETTERY_LIMIT_OPEN_UPLOADS"
    with pytest.raises(OverQuota, match=message):
        repository.add(Caller("a"), announced(x=b"3"), 1)
    assert len(repository.page("a", 10, None)) == 2, "nothing was added"
    assert repository.add(Caller("b"), announced(x=b"3"), 1)[1]
    repository.delete(uploads[0].id)
    complete(world, uploads[1].id)
    for n in range(2):
        assert repository.add(Caller("a"), announced(x=bytes([9, n])), 1)[1]


def test_announced_files_of_an_owner_are_limited_those_of_complete_uploads_too(world):
    repository = limited(world, announced_files=3)
    first = repository.add(Caller("a"), announced(x=b"1", y=b"2"), 2)[0]
    complete(world, first.id)
    message = r"a would have 4 files .* 3 are allowed: .*PALETTERY_LIMIT_ANNOUNCED_FILES"
    with pytest.raises(OverQuota, match=message):
        repository.add(Caller("a"), announced(x=b"3", y=b"4"), 2)
    assert repository.add(Caller("a"), announced(x=b"3"), 1)[1]
    world.now += 2 * DAY
    assert repository.add(Caller("a"), announced(x=b"5", y=b"6"), 2)[1], "those have expired"


def test_limits_hold_for_uploads_that_are_announced_at_once(world):
    repository = limited(world, open_uploads=3)

    def add(number):
        try:
            return repository.add(LIMITED, announced(x=bytes([number])), 1)[1]
        except OverQuota:
            return False

    with ThreadPoolExecutor(8) as senders:
        assert sum(senders.map(add, range(8))) == 3
