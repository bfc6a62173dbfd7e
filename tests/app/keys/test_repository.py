"""Rows of keys, on every database that is claimed."""

from datetime import UTC, datetime, timedelta

import pytest

from palettery.app.errors import NotFound
from palettery.app.keys.repository import KeyRepository
from palettery.schemas.keys import NewKey
from tests.databases import KINDS

pytestmark = pytest.mark.databases(*KINDS)
NOW = datetime(2026, 5, 6, tzinfo=UTC)


@pytest.fixture
def keys(database):
    """Keys whose clock is a second later each time."""
    times = (NOW + timedelta(seconds=n) for n in range(1_000))
    return KeyRepository(database, lambda: next(times))


def add(keys, number, **chosen):
    key_id = f"01890a5d-ac96-774b-bcce-{number:012x}"
    new = NewKey(owner="a", name=f"key {number}", **chosen)
    return keys.add(key_id, f"plt_{number}", f"{number:064x}", new)


def test_key_is_found_by_its_digest(keys):
    assert not keys.exist()
    made = add(keys, 1, scopes=("read",), queued_jobs=3)
    assert keys.find(f"{1:064x}") == (made, f"{1:064x}")
    assert (made.owner, made.scopes, made.queued_jobs) == ("a", ("read",), 3)
    assert keys.find("0" * 64) is None
    assert keys.exist()


def test_pages_are_newest_first(keys):
    made = [add(keys, number) for number in range(5)][::-1]
    first = keys.page(2, None)
    assert list(first) == made[:2]
    assert list(keys.page(9, (first[-1].created_at, first[-1].id))) == made[2:]


def test_revoked_key_keeps_its_first_time_and_no_longer_counts(keys):
    made = add(keys, 1)
    keys.revoke(made.id)
    (key,) = keys.page(1, None)
    keys.revoke(made.id)
    assert keys.page(1, None)[0].revoked_at == key.revoked_at is not None
    assert not keys.exist()
    for unknown in ("nobody", "\x00", "01890a5d-ac96-774b-bcce-ffffffffffff"):
        with pytest.raises(NotFound, match="there is no key"):
            keys.revoke(unknown)
