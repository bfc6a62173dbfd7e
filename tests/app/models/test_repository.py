"""Rows of models, on every supported database."""

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from safetensors.numpy import save
from sqlalchemy import text

from palettery.app.errors import BadInput, FileGone, NotFound
from palettery.app.files.repository import FileLocation
from palettery.app.jobs.job_rows import NewJob
from palettery.app.jobs.repository import JobRepository
from palettery.schemas.jobs import Progress
from tests.app.stored_job import draws
from tests.databases import KINDS

pytestmark = pytest.mark.databases(*KINDS)

DAY = timedelta(days=1)


def counted(database, table):
    with database.transaction() as session:
        return session.scalar(text(f"SELECT count(*) FROM {table}"))  # noqa: S608


def rows(database):
    return sum(counted(database, table) for table in ("models", "model_files", "files"))


def test_a_model_is_kept_once_and_for_longer_when_it_comes_again(world):
    first = world.add()
    world.clock[0] += DAY
    again = world.add()
    assert (again.id, again.created_at) == (first.id, first.created_at)
    assert again.expires_at == first.expires_at + DAY
    assert counted(world.database, "models") == counted(world.database, "model_files") == 1


def test_owners_see_their_own(world):
    mine, theirs = world.add("a"), world.add("b")
    assert mine.id == theirs.id
    world.records.delete("a", mine.id)
    with pytest.raises(NotFound, match=f"no model '{mine.id}'"):
        world.records.get("a", mine.id)
    with pytest.raises(NotFound):
        world.records.files("a", mine.id)
    assert world.records.get("b", mine.id) == theirs
    assert world.records.page("a", 10, None) == []


@pytest.mark.parametrize("id_", ["", "0" * 63, "A" * 64, "\0" * 64, "../" * 21 + "x"])
def test_invalid_id(world, id_):
    for ask in (world.records.get, world.records.files, world.records.delete):
        with pytest.raises(NotFound):
            ask("a", id_)


def test_pages_newest_first_also_of_the_same_moment(world):
    ids = []
    for number in range(6):
        world.clock[0] += DAY * (number % 2)
        ids.append(world.add(m=save(draws(number, x=(2, 2)))).id)
    seen, before = [], None
    while page := world.records.page("a", 2, before):
        seen += page
        before = (page[-1].created_at, page[-1].id)
    assert {model.id for model in seen} == set(ids)
    keys = [(model.created_at, model.id) for model in seen]
    assert keys == sorted(set(keys), reverse=True)


def test_files_are_where_they_are_kept_now(world):
    data = save(draws(x=(2, 2)))
    model = world.add(b=data, a=save(draws(y=(2, 2))))
    world.files.relocate(hashlib.sha256(data).hexdigest(), "uploads/elsewhere")
    first, second = world.records.files("a", model.id)
    assert (first.name, second.name) == ("a.safetensors", "b.safetensors")
    assert world.store.exists(first.path)
    assert second.path == "uploads/elsewhere"


def test_a_file_that_is_gone_adds_nothing(world):
    stored = world.put("m.safetensors", save(draws(x=(2, 2))))
    locations = [FileLocation(stored.sha256, stored.path, stored.size_bytes, has_row=True)]
    with pytest.raises(FileGone):
        asyncio.run(world.models.add("a", [stored], locations, lambda _: None))
    assert rows(world.database) == 0


def test_failure_within_the_transaction_adds_nothing(world):
    def fails(_):
        raise BadInput("no")

    with pytest.raises(BadInput):
        world.add(in_transaction=fails)
    assert rows(world.database) == 0


def test_owned_are_files_of_the_owners_models_and_jobs(world):
    a, b, c, d = (letter * 64 for letter in "abcd")
    by_job = [FileLocation(a, "uploads/a", 5)]
    job_id = "01890a5d-ac96-774b-bcce-000000000000"
    JobRepository(world.database).add(NewJob(job_id, "m", 1, Progress(), owner="x"), by_job)
    model = world.add("x")
    (file,) = world.records.files("x", model.id)
    owned = world.records.owned_files("x", [a, b, file.sha256])
    assert owned == {
        a: FileLocation(a, "uploads/a", 5, True),
        file.sha256: FileLocation(file.sha256, file.path, file.size_bytes, True),
    }
    assert world.records.owned_files("y", [a, b, c, d, file.sha256]) == {}


def test_expired_go_unless_they_were_used(world):
    used, unused = (world.add(m=save(draws(seed, x=(2, 2)))).id for seed in (1, 2))
    world.clock[0] += 29 * DAY
    world.records.touch("a", used)
    world.records.touch("b", unused)
    assert world.records.delete_expired() == []
    world.clock[0] += 2 * DAY
    assert world.records.delete_expired() == [unused]
    assert world.records.existing_ids([used, unused, "nothing"]) == {used}
    assert counted(world.database, "model_files") == 1


def test_threads_that_add_the_same_model(world):
    files = {f"m{number}": save(draws(number, **{f"x{number}": (2, 2)})) for number in range(8)}
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: world.add(**files), range(8)))
    assert len({model.id for model in models}) == 1
    assert counted(world.database, "models") == 1
    assert counted(world.database, "model_files") == counted(world.database, "files") == 8


def test_pages_have_numbers_of_files_and_no_files(world):
    one = world.add(a=save(draws(x=(4, 8))))
    two = world.add(a=save(draws(1, x=(4, 8))), b=save(draws(1, y=(4, 8))))
    counts = {model.id: model.file_count for model in world.records.page("a", 9, None)}
    assert counts == {one.id: 1, two.id: 2}
    assert [file.name for file in world.records.get("a", two.id).files] == [
        "a.safetensors",
        "b.safetensors",
    ]
    assert not hasattr(world.records.page("a", 9, None)[0], "files")
