"""Reads that compare bytes with what came in: a disk may change them while they lie there.

Digests of blocks lie beside a file, under its SHA-256, so that any range of it is checked for a
tenth of what SHA-256 would cost. A file of a block or two has none: all of it is read and hashed.
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
"""Files up to this size have no digests of blocks."""
ALIGNED_BYTES = 64
"""Where arrays may begin."""
DIGESTS, DAMAGED = "digests", "damaged"
"""Folders of digests, and of uploaded files that were found damaged."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedFile:
    """What a file in the store must be."""

    sha256: str
    name: str
    """As its owner calls it."""


@dataclass(frozen=True)
class CheckedReads:
    """Reads of files whose digests are known; others are read as they are.

    So are larger files without digests of blocks, from before there were any.
    """

    storage: Storage
    files: Mapping[str, CheckedFile]
    """Path -> what lies there."""
    folder: str = ""
    """The folder that has their digests; a job's, for what it made."""
    _digests: dict[str, BlockDigests | None] = field(default_factory=dict)
    _last: dict[str, tuple[int, memoryview]] = field(default_factory=dict)
    """Path -> the last blocks read and where they begin: small tensors share one."""

    def read(self, path: str, offset: int = 0, size_bytes: int | None = None) -> memoryview:
        """See `Storage.read`.

        Raises:
            UploadDamaged: the bytes are not those that came in.
        """
        file = self.files.get(path)
        if file is None:
            return self.storage.read(path, offset, size_bytes)
        try:
            first, blocks = self._checked(path, file, offset, size_bytes)
        except ObjectMissing:
            is_there = self.storage.exists(path)
            if is_there and self._is_whole(path, file):
                return self.storage.read(path, offset, size_bytes)
            if is_there or self.storage.exists(_damaged_path(file)):
                raise self._damage(path, file, "its end is missing") from None
            raise
        end = len(blocks) if size_bytes is None else offset - first + size_bytes
        found = blocks[offset - first : end]
        if (offset - first) % ALIGNED_BYTES:
            found = np.array(found).data
        return found.toreadonly()

    def chunks(self, path: str, offset: int, size_bytes: int) -> Iterator[memoryview]:
        """See `Storage.chunks`."""
        end = offset + size_bytes
        while offset < end:
            until = min(end, (offset // CHUNK_BYTES + 1) * CHUNK_BYTES)
            yield self.read(path, offset, until - offset)
            offset = until

    def _checked(
        self, path: str, file: CheckedFile, offset: int, size_bytes: int | None
    ) -> tuple[int, memoryview]:
        """Sound bytes around a range, and where they begin.

        Raises:
            ObjectMissing: the range ends behind the file's end, or there is no file.
        """
        at, held = self._last.get(path, (0, memoryview(b"")))
        if size_bytes is not None and at <= offset and offset + size_bytes <= at + len(held):
            return at, held
        if path not in self._digests:
            self._digests[path] = self._read_digests(path, file)
        digests = self._digests[path]
        if digests is None:
            return offset, self.storage.read(path, offset, size_bytes)
        end = digests.size_bytes if size_bytes is None else offset + size_bytes
        if end > digests.size_bytes:
            raise ObjectMissing(f"{path} ends {end - digests.size_bytes:,} bytes before that")
        first, last = digests.covering(offset, end)
        found = self.storage.read(path, first, last - first)
        place = digests.damage(first, found)
        if place is not None and not self._is_whole(path, file):
            raise self._damage(path, file, f"the block from byte {place:,} on has changed")
        if len(found) <= CHUNK_BYTES:
            self._last.clear()
            self._last[path] = first, found
        return first, found

    def _read_digests(self, path: str, file: CheckedFile) -> BlockDigests | None:
        """The digests of a file's blocks; a small one is read, checked, and kept for a while."""
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
            raise self._damage(path, file, "its SHA-256 has changed")
        digest = FileDigest()
        digest.update(data)
        return BlockDigests(digest.blocks())

    def _is_whole(self, path: str, file: CheckedFile) -> bool:
        """Whether a file is what came in after all: then its digests are damaged, and made anew."""
        digest = FileDigest()
        for piece in self.storage.chunks(path, 0, self.storage.size_bytes(path)):
            digest.update(piece)
        if digest.hexdigest() != file.sha256:
            return False
        log.warning("the digests of the blocks of %s were damaged, and are made anew", path)
        store_digests(self.storage, digest, self.folder)
        self._digests.clear()
        return True

    def _damage(self, path: str, file: CheckedFile, what: str) -> UploadDamaged:
        """What to raise; an upload is put away, so that its bytes are taken when sent again."""
        log.error("%s (%s) is damaged: %s", path, file.name, what)
        if not self.folder:
            try:
                self.storage.copy(path, _damaged_path(file))
                self.storage.delete(path)
            except ObjectMissing:  # somebody else was faster
                pass
        remedy = "submit its job again, without reuse" if self.folder else "upload it again"
        return UploadDamaged(
            f"{file.name} was damaged in the store: {what}, and its SHA-256 was {file.sha256}; "
            f"{remedy}"
        )


def store_digests(store: Storage, digest: FileDigest, folder: str = "") -> None:
    """Keep the digests of a file's blocks, beside other files of its folder."""
    if digest.size_bytes > SMALL_BYTES:
        store.write(digests_path(digest.hexdigest(), folder), digest.blocks())


def digests_path(sha256: str, folder: str = "") -> str:
    """Where the digests of the blocks of a file lie."""
    return f"{folder}/{DIGESTS}/{sha256}" if folder else f"{DIGESTS}/{sha256}"


def _damaged_path(file: CheckedFile) -> str:
    return f"{DAMAGED}/{file.sha256}"
