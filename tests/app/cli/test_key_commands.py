"""`palettery keys`, on a database of its own."""

import json

import pytest


@pytest.fixture
def keys(palettery, tmp_path):
    """Run `palettery keys`, where a service has been; gives (exit code, stdout, stderr)."""
    folder = ("--data-dir", tmp_path / "data")
    assert palettery("migrate", *folder)[0] == 0
    return lambda *words: palettery("keys", *words, *folder)


def listed(keys):
    code, out, _ = keys("list", "--json")
    assert code == 0
    return json.loads(out)


def test_keys_are_made_listed_and_revoked(keys):
    assert listed(keys) == []
    code, secret, err = keys("create", "--owner", "vision", "--name", "ci")
    assert (code, secret.count("\n"), len(secret.strip())) == (0, 1, 47)
    (key,) = listed(keys)
    assert err.startswith(f"{key['id']}: give it to vision")
    assert secret.startswith(key["prefix"])
    assert (key["scopes"], key["expires_at"], key["revoked_at"]) == (["read", "write"], None, None)
    code, out, err = keys("revoke", key["id"])
    assert (code, out) == (0, "")
    assert "that was the last key" in err
    assert listed(keys)[0]["revoked_at"]
    code, table, _ = keys("list")
    assert code == 0
    assert all(word in table for word in (key["id"], "vision", "ci", "read write", "revoked"))
    assert secret.strip() not in table


def test_every_option(keys):
    words = "--scope admin --scope read --scope admin --days 1.5 --queued-jobs 0 --stored-bytes 1"
    options = (*words.split(), "--upload-bytes", "2")
    assert keys("create", "--owner", "a", "--name", "b c", *options)[0] == 0
    (key,) = listed(keys)
    assert key["scopes"] == ["admin", "read"]
    assert [key[name] for name in ("queued_jobs", "stored_bytes", "upload_bytes")] == [0, 1, 2]
    assert key["expires_at"]
    assert "valid" in keys("list")[1]


def test_what_cannot_be_is_said_field_by_field(keys):
    code, out, err = keys("create", "--owner", "a b", "--name", "x" * 101, "--days", "0")
    assert (code, out) == (2, "")
    assert err.startswith("palettery: the key is not valid\n  /owner: ")
    assert "\n  /name: " in err
    assert listed(keys) == []
    code, _, err = keys("revoke", "nobody")
    assert (code, err) == (2, "palettery: there is no key 'nobody'; see the list of keys\n")


def test_database_that_was_never_migrated_is_left_alone(palettery, tmp_path):
    code, _, err = palettery("keys", "list", "--data-dir", tmp_path)
    assert code == 2
    assert f"there is no service in {tmp_path.resolve()}; set --data-dir" in err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "palettery.db").touch()
    code, _, err = palettery("keys", "list", "--data-dir", tmp_path)
    assert code == 2
    assert "run `palettery migrate`" in err
