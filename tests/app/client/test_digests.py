import hashlib
import os
import sqlite3
from contextlib import closing

import pytest

from app.client.digests import Digests, pieces

LONG_AGO_S = 1_000_000_000


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    return path


def test_a_digest_is_remembered_until_the_file_changes(tmp_path, file):
    digests = Digests(tmp_path / "cache")
    told = []
    digests.of(file, told.append)
    assert told == [3]
    _alter_what_is_remembered(tmp_path / "cache" / "digests.db")
    assert Digests(tmp_path / "cache").of(file, told.append) == "remembered"
    assert told == [3, 3]
    file.write_bytes(b"two")
    assert digests.of(file, told.append) == hashlib.sha256(b"two").hexdigest()


def test_a_digest_can_be_forgotten(tmp_path, file):
    digests = Digests(tmp_path / "cache")
    digests.of(file, lambda _: None)
    _alter_what_is_remembered(tmp_path / "cache" / "digests.db")
    digests.forget([file])
    assert digests.of(file, lambda _: None) == hashlib.sha256(b"one").hexdigest()


def _alter_what_is_remembered(database):
    with closing(sqlite3.connect(database)) as opened, opened:
        assert opened.execute("UPDATE digests SET sha256 = 'remembered'").rowcount == 1


def test_a_file_that_was_just_written_is_read_again(tmp_path):
    digests, file = Digests(tmp_path / "cache"), tmp_path / "file"
    file.write_bytes(b"one")
    stat = file.stat()
    digests.of(file, lambda _: None)
    file.write_bytes(b"two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digests.of(file, lambda _: None) == hashlib.sha256(b"two").hexdigest()


def test_without_a_place_to_remember(tmp_path, file):
    (tmp_path / "taken").write_bytes(b"")
    digests = Digests(tmp_path / "taken")
    for _ in range(2):
        assert digests.of(file, lambda _: None) == hashlib.sha256(b"one").hexdigest()


def test_pieces_of_a_range(file):
    assert b"".join(pieces(file, 1, 2)) == b"ne"
    assert list(pieces(file, 3, 0)) == []
    with pytest.raises(EOFError):
        list(pieces(file, 1, 3))
