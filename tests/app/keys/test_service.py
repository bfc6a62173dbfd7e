"""Keys, their owners and scopes, on every supported database."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from palettery.app.errors import BadInput, NotFound, Unauthenticated
from palettery.app.http.caller import ADMIN, LOCAL, SCOPES
from palettery.app.keys.repository import KeyRepository
from palettery.app.keys.secret import new_secret
from palettery.app.keys.service import KeyService
from palettery.app.settings import Limits, Settings, read_settings
from palettery.schemas.keys import NewKey, OwnerLimits
from tests.databases import KINDS_IN_HEAVY

pytestmark = pytest.mark.databases(*KINDS_IN_HEAVY)

NOW = datetime(2026, 5, 6, 7, 8, 9, 101112, UTC)
HOUR = timedelta(hours=1)
ADMIN_KEY = "0123456789abcdef" * 2
SERVICE = OwnerLimits(queued_jobs=7, stored_bytes=8, upload_bytes=9)
LIMITS = Limits(queued_jobs=7, stored_bytes=8, upload_bytes=9)


@pytest.fixture
def clock():
    """A list of the one time that it is."""
    return [NOW]


@pytest.fixture
def keys_with(database, clock):
    """The keys of a service with these settings; all share a database, as processes do."""

    def made(**settings):
        return KeyService(
            Settings(limits=LIMITS, **settings), KeyRepository(database, lambda: clock[0])
        )

    return made


@pytest.fixture
def keys(keys_with):
    return keys_with()


def new(**chosen):
    return NewKey(**{"owner": "a", "name": "ci"} | chosen)


def assert_refused(keys, secret, message):
    with pytest.raises(Unauthenticated, match=message):
        keys.caller(secret)


def test_without_keys_whoever_is_here_may_do_everything(keys):
    caller = keys.caller(None)
    assert (caller.owner, caller.scopes, caller.limits) == (LOCAL, SCOPES, SERVICE)


def test_first_key_shuts_every_process_and_the_last_one_opens_it_again(keys_with):
    one, other = keys_with(), keys_with()
    made = one.create(new())
    for keys in (one, other):
        assert_refused(keys, None, "requires a key")
        assert keys.caller(made.secret).owner == "a"
    other.revoke(made.key.id)
    for keys in (one, other):
        assert_refused(keys, made.secret, "revoked")
        assert keys.caller(None).owner == LOCAL


def test_key_stands_for_its_owner_its_scopes_and_its_limits(keys):
    made = keys.create(new(scopes=["read"], stored_bytes=0))
    caller = keys.caller(made.secret)
    assert (caller.owner, caller.scopes) == ("a", {"read"})
    assert caller.limits == SERVICE.model_copy(update={"stored_bytes": 0})


def test_expired_key_is_refused_and_still_keeps_the_door_shut(keys, clock):
    made = keys.create(new(expires_at=NOW + HOUR))
    clock[0] = NOW + HOUR - timedelta(microseconds=1)
    assert keys.caller(made.secret).owner == "a"
    clock[0] = NOW + HOUR
    assert_refused(keys, made.secret, "expired")
    assert_refused(keys, None, "requires a key")


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        (new_secret(), "no such key"),
        (new_secret()[:-1], "this is not a key"),
        (f" {new_secret()}", "this is not a key"),
        ("", "this is not a key"),
        ("plt_\x00ü\udcff", "this is not a key"),
        (ADMIN_KEY, "this is not a key"),
    ],
    ids=["unknown", "cut off", "with a space", "empty", "no ASCII", "another kind"],
)
def test_what_is_no_key_is_refused_with_and_without_keys(keys, secret, message):
    assert_refused(keys, secret, message)
    keys.create(new())
    assert_refused(keys, secret, message)


def test_admin_key_is_an_admin(keys_with):
    keys = keys_with(admin_key=ADMIN_KEY)
    caller = keys.caller(ADMIN_KEY)
    assert (caller.owner, caller.scopes, caller.limits) == (ADMIN, SCOPES, SERVICE)
    assert_refused(keys, None, "requires a key")
    assert_refused(keys, ADMIN_KEY[:-1], "this is not a key")
    assert keys.caller(keys.create(new()).secret).owner == "a"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_is_served_without_keys_and_it_is_said(keys_with, caplog, host):
    keys_with(host=host).check_address()
    assert f"everyone who can reach {host} has full access" in caplog.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])  # noqa: S104
def test_other_addresses_need_a_key(keys_with, caplog, host):
    keys = keys_with(host=host)
    with pytest.raises(BadInput, match=f"refusing to listen on {host}: there are no keys"):
        keys.check_address()
    keys_with(host=host, admin_key=ADMIN_KEY).check_address()
    made = keys.create(new())
    keys.check_address()
    keys.revoke(made.key.id)
    assert_refused(keys, None, "requires a key")  # a running server does not open up
    with pytest.raises(BadInput):
        keys.check_address()
    assert caplog.text == ""


def test_secret_is_random_and_kept_nowhere(keys, database):
    made = [keys.create(new()) for _ in range(3)]
    assert len({each.secret for each in made}) == 3
    assert all(re.fullmatch(r"plt_[A-Za-z0-9_-]{43}", each.secret) for each in made)
    assert all(each.secret.startswith(each.key.prefix) for each in made)
    with database.transaction() as session:
        rows = str(session.execute(text("SELECT * FROM keys")).all())
    assert made[0].key.prefix in rows
    assert all(each.secret not in rows and each.secret[12:] not in rows for each in made)


def test_keys_are_listed_newest_first_page_by_page(keys, clock):
    made = []
    for number in range(5):
        clock[0] = NOW + number // 2 * HOUR  # some at the same time
        made.append(keys.create(new(name=f"{number}", queued_jobs=number)).key)
    keys.revoke(made[2].id)
    result, cursor = [], None
    while True:
        page = keys.page(2, cursor)
        result += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    assert [each.created_at for each in result] == sorted(
        (each.created_at for each in made), reverse=True
    )
    revoked = made[2].model_copy(update={"revoked_at": clock[0]})
    assert {each.id: each for each in result} == {
        each.id: each for each in (*made[:2], revoked, *made[3:])
    }
    with pytest.raises(BadInput, match="cursor"):
        keys.page(2, "nonsense")


def test_revoking_twice_is_revoking_once(keys, clock):
    made = keys.create(new())
    keys.revoke(made.key.id)
    clock[0] = NOW + HOUR
    keys.revoke(made.key.id)
    assert keys.page(1, None).items[0].revoked_at == NOW
    for nobody in ("01890a5d-ac96-774b-bcce-b302099a8057", "", "\x00", "x" * 10_000):
        with pytest.raises(NotFound, match="there is no key"):
            keys.revoke(nobody)


@pytest.mark.parametrize(
    "moment",
    ["2026-05-06T07:08:09Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"],
)
def test_keys_that_never_live_or_never_end_are_refused(keys, moment):
    with pytest.raises(BadInput, match="expires_at is"):
        keys.create(new(expires_at=moment))
    assert keys.page(1, None).items == ()


@pytest.mark.parametrize(
    "chosen",
    [
        {"owner": ""},
        {"owner": "a b"},
        {"owner": "a\n"},
        {"owner": "x" * 65},
        {"owner": "\x00"},
        {"name": ""},
        {"name": "a\x00b"},
        {"name": "a\n"},
        {"name": "x" * 101},
        {"name": "\udcff"},
        {"scopes": []},
        {"scopes": ["root"]},
        {"expires_at": "2026-05-06T07:08:09"},
        {"queued_jobs": -1},
        {"queued_jobs": 1 << 31},
        {"stored_bytes": 1 << 63},
        {"more": 1},
    ],
)
def test_keys_that_cannot_be(chosen):
    with pytest.raises(ValidationError):
        new(**chosen)


def test_largest_limits_and_oddest_names_are_kept(keys):
    made = keys.create(
        new(
            owner="A.b_c-d@example.org",
            name="ключ 🔑",
            queued_jobs=(1 << 31) - 1,
            stored_bytes=(1 << 63) - 1,
            upload_bytes=(1 << 63) - 1,
        )
    )
    assert keys.page(1, None).items == (made.key,)
    assert keys.me(keys.caller(made.secret)).limits.stored_bytes == (1 << 63) - 1


@pytest.mark.parametrize("given", ["x" * 31, "", "x" * 31 + " ", "ü" * 32, "x" * 40 + "\n"])
def test_admin_keys_that_are_too_easy_are_named_without_being_shown(monkeypatch, given):
    monkeypatch.setenv("PALETTERY_ADMIN_KEY", given)
    with pytest.raises(BadInput, match=r"PALETTERY_ADMIN_KEY: .* at least 32") as error:
        read_settings()
    assert not given or given not in error.value.detail
