"""Corruption of stored bytes is detected by reads, on every kind of store."""

import hashlib

import numpy as np
import pytest

from palettery.app.errors import ObjectMissing, UploadDamaged
from palettery.app.storage.base import CHUNK_BYTES
from palettery.app.storage.file_digest import BLOCK_BYTES, FileDigest
from palettery.app.storage.verified_reader import (
    ALIGNED_BYTES,
    SMALL_BYTES,
    CheckedFile,
    VerifiedReader,
    digests_path,
    store_digests,
)

PATH, NAME = "uploads/a", "m.safetensors"
SIZES = [1, 1000, SMALL_BYTES, SMALL_BYTES + 1, 3 * BLOCK_BYTES, CHUNK_BYTES + BLOCK_BYTES + 7]
LARGE = SIZES[-1]


def put(store, size_bytes, *, with_digests=True, folder=""):
    """A file as uploads leave it, and how it is read."""
    data = np.random.default_rng(size_bytes).bytes(size_bytes)
    store.write(PATH, data)
    digest = FileDigest()
    for start in range(0, size_bytes, 100_003):  # as bytes come in: in pieces of any size
        digest.update(data[start : start + 100_003])
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()
    if with_digests:
        store_digests(store, digest, folder)
    return data, reads(store, digest.hexdigest(), folder)


def reads(store, sha256, folder=""):
    return VerifiedReader(store, {PATH: CheckedFile(sha256, NAME)}, folder)


def flip(store, path, place):
    data = bytearray(store.read(path))
    data[place] ^= 1
    store.write(path, bytes(data))


def ranges(size_bytes):
    edges = [0, 1, 63, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, CHUNK_BYTES, size_bytes]
    edges = sorted({edge for edge in edges if edge <= size_bytes})
    return [(first, end) for first in edges for end in edges if first <= end]


@pytest.mark.parametrize("size_bytes", SIZES)
def test_every_range_reads_as_it_came_in(store, size_bytes):
    data, checked = put(store, size_bytes)
    for first, end in ranges(size_bytes):
        assert checked.read(PATH, first, end - first) == data[first:end], (first, end)
        pieces = list(checked.chunks(PATH, first, end - first))
        assert b"".join(pieces) == data[first:end]
        assert all(len(piece) <= CHUNK_BYTES for piece in pieces)
    assert checked.read(PATH) == data
    assert checked.read(PATH, 1) == data[1:]
    place = np.frombuffer(checked.read(PATH, size_bytes // 2, size_bytes - size_bytes // 2), "u1")
    assert place.ctypes.data % 16 == 0 or (size_bytes // 2) % ALIGNED_BYTES == 0
    with pytest.raises(ObjectMissing):
        checked.read(PATH, size_bytes, 1)


@pytest.mark.parametrize("size_bytes", SIZES)
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_flipped_bit_is_found_and_the_file_named(store, size_bytes, where):
    data, checked = put(store, size_bytes)
    place = {"first": 0, "middle": size_bytes // 2, "last": size_bytes - 1}[where]
    flip(store, PATH, place)
    with pytest.raises(UploadDamaged, match=rf"{NAME} was damaged .* upload it again"):
        checked.read(PATH, place, 1)
    assert not store.exists(PATH), "so that the same bytes are taken when they are sent again"
    sha256 = hashlib.sha256(data).hexdigest()
    assert len(store.read(f"damaged/{sha256}")) == size_bytes
    with pytest.raises(UploadDamaged):  # another task, which finds it gone
        reads(store, sha256).read(PATH, 0, 1)


@pytest.mark.parametrize("size_bytes", [SIZES[1], LARGE])
def test_a_file_that_was_cut_short_is_damaged(store, size_bytes):
    data, checked = put(store, size_bytes)
    store.write(PATH, data[:-5])
    with pytest.raises(UploadDamaged, match=NAME):
        checked.read(PATH, size_bytes - 10, 10)


def test_sound_blocks_of_a_damaged_file_are_read(store):
    data, checked = put(store, LARGE)
    flip(store, PATH, LARGE - 1)
    assert checked.read(PATH, 5, 100) == data[5:105]


def test_swapped_and_zeroed_blocks_are_found(store):
    data, _ = put(store, LARGE)
    one, other = data[:BLOCK_BYTES], data[BLOCK_BYTES : 2 * BLOCK_BYTES]
    rest = data[2 * BLOCK_BYTES :]
    sha256 = hashlib.sha256(data).hexdigest()
    for changed in (other + one + rest, one + bytes(BLOCK_BYTES) + rest):
        store.write(PATH, changed)
        with pytest.raises(UploadDamaged):
            list(reads(store, sha256).chunks(PATH, 0, LARGE))


def test_a_file_that_is_gone_is_missing_not_damaged(store):
    for size_bytes in (SIZES[1], LARGE):
        _, checked = put(store, size_bytes)
        store.delete(PATH)
        with pytest.raises(ObjectMissing):
            checked.read(PATH, 0, 10)


@pytest.mark.parametrize("place", [3, 8, 30])
def test_damaged_digests_of_a_sound_file_are_made_anew(store, place, caplog):
    data, checked = put(store, LARGE)
    path = digests_path(hashlib.sha256(data).hexdigest())
    sound = bytes(store.read(path))
    flip(store, path, place)
    assert b"".join(checked.chunks(PATH, 0, LARGE)) == data
    assert store.read(path) == sound
    assert "rewriting them" in caplog.text


def test_files_from_before_there_were_digests_are_read_as_they_are(store):
    data, checked = put(store, LARGE, with_digests=False)
    assert checked.read(PATH, 1, 100) == data[1:101]
    assert VerifiedReader(store, {}).read(PATH) == data


def test_what_a_job_made_stays_where_it_is(store):
    _, checked = put(store, LARGE, folder="jobs/a")
    flip(store, PATH, 0)
    with pytest.raises(UploadDamaged):
        checked.read(PATH, 0, 1)
    assert store.exists(PATH)
    assert store.list("damaged") == []
