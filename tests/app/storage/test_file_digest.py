"""Digests of a file and of its blocks."""

import hashlib

import pytest

from palettery.app.storage.file_digest import BLOCK_BYTES, BlockDigests, FileDigest

DATA = bytes(range(251)) * (3 * BLOCK_BYTES // 251)


def digest_of(data, size_bytes):
    digest = FileDigest()
    for start in range(0, len(data), size_bytes):
        digest.update(memoryview(data)[start : start + size_bytes])
    return digest


@pytest.mark.parametrize("size_bytes", [1_000, BLOCK_BYTES, len(DATA)])
def test_digests_do_not_depend_on_the_pieces(size_bytes):
    digest = digest_of(DATA, size_bytes)
    assert digest.hexdigest() == hashlib.sha256(DATA).hexdigest()
    assert digest.size_bytes == len(DATA)
    assert digest.blocks() == digest_of(DATA, 77_777).blocks()


def test_a_range_is_covered_by_whole_blocks():
    blocks = BlockDigests(digest_of(DATA, len(DATA)).blocks())
    assert blocks.covering(5, 6) == (0, BLOCK_BYTES)
    assert blocks.covering(BLOCK_BYTES, BLOCK_BYTES + 1) == (BLOCK_BYTES, 2 * BLOCK_BYTES)
    assert blocks.covering(0, len(DATA)) == (0, len(DATA))


@pytest.mark.parametrize("position", [0, BLOCK_BYTES - 1, BLOCK_BYTES, len(DATA) - 1])
def test_one_changed_byte_is_located_by_its_block(position):
    blocks = BlockDigests(digest_of(DATA, len(DATA)).blocks())
    damaged = bytearray(DATA)
    damaged[position] ^= 1
    assert blocks.find_damage(0, memoryview(DATA)) is None
    assert blocks.find_damage(0, memoryview(damaged)) == position // BLOCK_BYTES * BLOCK_BYTES
