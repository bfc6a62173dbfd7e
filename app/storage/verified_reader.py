"""A reader that verifies checksums, since a disk may corrupt stored bytes.

Digests of a file's blocks are stored under its SHA-256, so that any range can be verified at a
tenth of the cost of SHA-256. Small files have none: they are read and hashed as a whole.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from palettery.app.errors import ObjectMissing, UploadDamaged
from palettery.app.storage.base import CHUNK_BYTES, Storage
from palettery.app.storage.file_digest import BlockDigests, FileDigest

SMALL_BYTES = 512 << 10
"""Maximum size of files without stored block digests."""
ALIGNED_BYTES = 64
"""Alignment of arrays in memory."""
DIGESTS, DAMAGED = "digests", "damaged"
"""Folders of block digests, and of damaged uploads."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedFile:
    """Expected digest of a file in the store."""

    sha256: str
    name: str
    """File name, for messages to its owner."""


@dataclass(frozen=True)
class VerifiedReader:
    """A reader that verifies files of known digest.

    Other files are read without verification, as are large files that have no block digests.
    """

    storage: Storage
    files: Mapping[str, CheckedFile]
    """Path -> expected digest."""
    folder: str = ""
    """Folder of the block digests: that of the job for its results, else empty."""
    _digests: dict[str, BlockDigests | None] = field(default_factory=dict)
    _last_read: dict[str, tuple[int, memoryview]] = field(default_factory=dict)
    """Path -> (offset, blocks) of the last read: small tensors share a block."""

    def read(self, path: str, offset: int = 0, size_bytes: int | None = None) -> memoryview:
        """See `Storage.read`.

        Raises:
            UploadDamaged: the bytes have changed since they were stored.
        """
        file = self.files.get(path)
        if file is None:
            return self.storage.read(path, offset, size_bytes)
        try:
            first, blocks = self._read_verified(path, file, offset, size_bytes)
        except ObjectMissing:
            exists = self.storage.exists(path)
            if exists and self._is_intact(path, file):
                return self.storage.read(path, offset, size_bytes)
            if exists or self.storage.exists(_damaged_path(file)):
                raise self._handle_damage(path, file, "it is truncated") from None
            raise
        end = len(blocks) if size_bytes is None else offset - first + size_bytes
        data = blocks[offset - first : end]
        if (offset - first) % ALIGNED_BYTES:  # copy, since kernels need aligned arrays
            data = np.array(data).data
        return data.toreadonly()

    def chunks(self, path: str, offset: int, size_bytes: int) -> Iterator[memoryview]:
        """See `Storage.chunks`."""
        end = offset + size_bytes
        while offset < end:
            chunk_end = min(end, (offset // CHUNK_BYTES + 1) * CHUNK_BYTES)
            yield self.read(path, offset, chunk_end - offset)
            offset = chunk_end

    def _read_verified(
        self, path: str, file: CheckedFile, offset: int, size_bytes: int | None
    ) -> tuple[int, memoryview]:
        """Return the verified blocks that contain a range, and their offset.

        Raises:
            ObjectMissing: the range exceeds the file, or there is no file.
        """
        start, blocks = self._last_read.get(path, (0, memoryview(b"")))
        if (
            size_bytes is not None
            and start <= offset
            and offset + size_bytes <= start + len(blocks)
        ):
            return start, blocks
        if path not in self._digests:
            self._digests[path] = self._read_digests(path, file)
        digests = self._digests[path]
        if digests is None:
            return offset, self.storage.read(path, offset, size_bytes)
        end = digests.size_bytes if size_bytes is None else offset + size_bytes
        if end > digests.size_bytes:
            raise ObjectMissing(f"{path} ends {end - digests.size_bytes:,} bytes before that")
        first, last = digests.covering(offset, end)
        blocks = self.storage.read(path, first, last - first)
        damaged = digests.find_damage(first, blocks)
        if damaged is not None and not self._is_intact(path, file):
            raise self._handle_damage(path, file, f"the block at byte {damaged:,} has changed")
        if len(blocks) <= CHUNK_BYTES:
            self._last_read.clear()
            self._last_read[path] = first, blocks
        return first, blocks

    def _read_digests(self, path: str, file: CheckedFile) -> BlockDigests | None:
        """Return the block digests of a file; those of a small file are computed after a check."""
        size_bytes = self.storage.size_bytes(path)
        if size_bytes > SMALL_BYTES:
            try:
                return BlockDigests(
                    bytes(self.storage.read(digests_path(file.sha256, self.folder)))
                )
            except ObjectMissing:
                return None
        data = self.storage.read(path, 0, size_bytes)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise self._handle_damage(path, file, "its SHA-256 has changed")
        digest = FileDigest()
        digest.update(data)
        return BlockDigests(digest.blocks())

    def _is_intact(self, path: str, file: CheckedFile) -> bool:
        """Return whether the file matches its SHA-256; if so, rewrite its block digests."""
        digest = FileDigest()
        for piece in self.storage.chunks(path, 0, self.storage.size_bytes(path)):
            digest.update(piece)
        if digest.hexdigest() != file.sha256:
            return False
        log.warning("the block digests of %s were damaged; rewriting them", path)
        store_digests(self.storage, digest, self.folder)
        self._digests.clear()
        return True

    def _handle_damage(self, path: str, file: CheckedFile, what: str) -> UploadDamaged:
        """Move a damaged upload away, so that it can be sent again; return the error to raise."""
        log.error("%s (%s) is damaged: %s", path, file.name, what)
        if not self.folder:
            try:
                self.storage.copy(path, _damaged_path(file))
                self.storage.delete(path)
            except ObjectMissing:  # another process moved it
                pass
        remedy = "submit its job again, without reuse" if self.folder else "upload it again"
        return UploadDamaged(
            f"{file.name} was damaged in the store: {what}, and its SHA-256 was {file.sha256}; "
            f"{remedy}"
        )


def store_digests(store: Storage, digest: FileDigest, folder: str = "") -> None:
    """Store the block digests of a file below a folder."""
    if digest.size_bytes > SMALL_BYTES:
        store.write(digests_path(digest.hexdigest(), folder), digest.blocks())


def digests_path(sha256: str, folder: str = "") -> str:
    """Return the path of the block digests of a file."""
    return f"{folder}/{DIGESTS}/{sha256}" if folder else f"{DIGESTS}/{sha256}"


def _damaged_path(file: CheckedFile) -> str:
    return f"{DAMAGED}/{file.sha256}"
