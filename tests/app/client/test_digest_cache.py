import hashlib
import os
import sqlite3
from contextlib import closing

import pytest

from palettery.app.client.digest_cache import DigestCache, pieces

LONG_AGO_S = 1_000_000_000


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    return path


def test_a_digest_is_remembered_until_the_file_changes(tmp_path, file):
    digests = DigestCache(tmp_path / "cache")
    sizes = []
    digests.of(file, 8, sizes.append)
    assert sizes == [3]
    _alter_what_is_remembered(tmp_path / "cache" / "digests.db")
    assert DigestCache(tmp_path / "cache").of(file, 8, sizes.append) == "remembered"
    assert sizes == [3, 3]
    file.write_bytes(b"two")
    assert digests.of(file, 8, sizes.append) == hashlib.sha256(b"two").hexdigest()


def test_a_digest_can_be_forgotten(tmp_path, file):
    digests = DigestCache(tmp_path / "cache")
    digests.of(file, 8, lambda _: None)
    _alter_what_is_remembered(tmp_path / "cache" / "digests.db")
    digests.forget([file])
    assert digests.of(file, 8, lambda _: None) == hashlib.sha256(b"one").hexdigest()


def _alter_what_is_remembered(database):
    with closing(sqlite3.connect(database)) as opened, opened:
        assert opened.execute("UPDATE digests SET sha256 = 'remembered'").rowcount == 1


def test_a_file_that_was_just_written_is_read_again(tmp_path):
    digests, file = DigestCache(tmp_path / "cache"), tmp_path / "file"
    file.write_bytes(b"one")
    stat = file.stat()
    digests.of(file, 8, lambda _: None)
    file.write_bytes(b"two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digests.of(file, 8, lambda _: None) == hashlib.sha256(b"two").hexdigest()


def test_without_a_place_to_remember(tmp_path, file):
    (tmp_path / "taken").write_bytes(b"")
    digests = DigestCache(tmp_path / "taken")
    for _ in range(2):
        assert digests.of(file, 8, lambda _: None) == hashlib.sha256(b"one").hexdigest()


def test_pieces_of_a_range(file):
    assert b"".join(pieces(file, 1, 2)) == b"ne"
    assert list(pieces(file, 3, 0)) == []
    with pytest.raises(EOFError):
        list(pieces(file, 1, 3))


def test_digests_of_parts_are_known_from_reading_the_file(tmp_path):
    """A part that changes afterwards does not have the digest that it is sent with."""
    path, digests = tmp_path / "file", DigestCache(tmp_path / "cache")
    parts = ((0, 8), (8, 8), (16, 4))

    def of_parts():
        return [digests.of_part(path, offset, size) for offset, size in parts]

    def expected(data):
        return [hashlib.sha256(data[offset : offset + size]).digest() for offset, size in parts]

    path.write_bytes(bytes(range(20)))
    assert of_parts() == expected(bytes(range(20)))
    digests.of(path, 8, lambda _: None)
    path.write_bytes(bytes(20))
    assert of_parts() == expected(bytes(range(20)))
    digests.forget([path])
    assert of_parts() == expected(bytes(20))


@pytest.mark.parametrize("part_bytes", [1, 3, 8, 19, 20, 21, 100])
def test_digests_of_parts_of_any_size(tmp_path, part_bytes, monkeypatch):
    monkeypatch.setattr("palettery.app.client.digest_cache.PIECE_BYTES", 7)
    path, digests, data = tmp_path / "file", DigestCache(tmp_path / "cache"), bytes(range(20))
    path.write_bytes(data)
    digests.of(path, part_bytes, lambda _: None)
    path.unlink()
    for offset in range(0, 20, part_bytes):
        part = data[offset : offset + part_bytes]
        assert digests.of_part(path, offset, len(part)) == hashlib.sha256(part).digest()


def test_a_user_without_a_home_leaves_no_folder_behind(tmp_path, file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user that is not known
    sizes = []
    digests = DigestCache()
    assert {digests.of(file, 8, sizes.append) for _ in range(2)} == {
        hashlib.sha256(b"one").hexdigest()
    }
    assert sizes == [3, 3]
    assert list(tmp_path.iterdir()) == [file]
