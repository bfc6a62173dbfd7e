"""The interface of an object store."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from palettery.app.errors import BadInput, ObjectMissing
from palettery.app.storage.file_digest import FileDigest
from palettery.app.storage.streams import AsyncPieces, HashingStream, Pieces

CHUNK_BYTES = 8 << 20
"""Bytes per chunk of a streamed read."""


@dataclass(frozen=True)
class StoredObject:
    """An object in a listing."""

    path: str
    size_bytes: int
    modified_at: datetime


class Capacity(NamedTuple):
    """Capacity of a store of limited size."""

    free_bytes: int
    size_bytes: int


class ObjectReader(Protocol):
    """Reader of byte ranges of objects: a `Storage`, or one that verifies them."""

    def read(self, path: str, offset: int = 0, size_bytes: int | None = None) -> memoryview:
        """See `Storage.read`."""

    def chunks(self, path: str, offset: int, size_bytes: int) -> Iterator[memoryview]:
        """See `Storage.chunks`."""


@dataclass(frozen=True)
class Storage(ABC):
    """An object store; every write is atomic.

    Reads and writes are retried while the store is unavailable, and fail after a timeout.
    """

    url: str

    @abstractmethod
    def read(self, path: str, offset: int = 0, size_bytes: int | None = None) -> memoryview:
        """Return the bytes of an object, or of a range of it.

        Raises:
            ObjectMissing: there is no such object, or the range exceeds it.
        """

    def chunks(self, path: str, offset: int, size_bytes: int) -> Iterator[memoryview]:
        """Yield a range of an object in pieces of at most `CHUNK_BYTES`."""
        for start in range(offset, offset + size_bytes, CHUNK_BYTES):
            yield self.read(path, start, min(CHUNK_BYTES, offset + size_bytes - start))

    @abstractmethod
    def write(self, path: str, data: bytes | memoryview | Pieces) -> None:
        """Write an object; an iterable is streamed, and may itself read from this store."""

    @abstractmethod
    async def write_stream(self, path: str, data: AsyncPieces) -> None:
        """Write an object from an async stream, with only a few chunks in memory."""

    async def join(self, sources: Sequence[str], target: str) -> FileDigest:
        """Write the concatenated bytes of objects to another path; return their digest.

        Raises:
            ObjectMissing: a source does not exist.
        """
        hashed = HashingStream(self._stream(sources))
        await self.write_stream(target, hashed.pieces())
        return hashed.digest

    async def _stream(self, paths: Sequence[str]) -> AsyncPieces:
        for path in paths:
            size_bytes = await asyncio.to_thread(self.size_bytes, path)
            for start in range(0, size_bytes, CHUNK_BYTES):
                length = min(CHUNK_BYTES, size_bytes - start)
                yield await asyncio.to_thread(self.read, path, start, length)

    @property
    def supports_presigned_urls(self) -> bool:
        """Whether clients can write objects directly with presigned URLs."""
        return False

    def presigned_put_urls(self, paths: Sequence[str], valid_for: timedelta) -> Sequence[str]:  # noqa: ARG002
        """Return presigned URLs to which a client can PUT these objects for a while.

        Raises:
            BadInput: this kind of store has no presigned URLs.
        """
        raise BadInput("the store of this server has no presigned URLs; leave presign out")

    @abstractmethod
    def copy(self, source: str, target: str) -> None:
        """Copy an object to another path, replacing any object there.

        Raises:
            ObjectMissing: the source does not exist.
        """

    @abstractmethod
    def size_bytes(self, path: str) -> int:
        """Return the size of an object.

        Raises:
            ObjectMissing: there is no such object.
        """

    def exists(self, path: str) -> bool:
        """Return whether an object exists at the path."""
        try:
            self.size_bytes(path)
        except ObjectMissing:
            return False
        return True

    def capacity(self) -> Capacity | None:
        """Return the free and total space; None if unlimited or unknown."""
        return None

    @abstractmethod
    def health_problem(self) -> str | None:
        """Return why the store is not usable, within two seconds; None if it is."""

    @abstractmethod
    def delete(self, *paths: str) -> None:
        """Delete objects; missing ones are ignored."""

    @abstractmethod
    def delete_folder(self, prefix: str) -> None:
        """Delete everything below a folder, including unfinished writes where visible."""

    @abstractmethod
    def delete_unfinished(self, prefix: str, before: datetime) -> int:
        """Delete unfinished writes below a folder not modified since `before`; return their number.

        A bucket's unfinished multipart uploads are not visible here: a lifecycle rule of the bucket
        must expire them.
        """

    @abstractmethod
    def list_objects(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects below a folder, without unfinished writes."""

    def list(self, prefix: str) -> list[str]:
        """Return the paths of the objects below a folder."""
        return [entry.path for entry in self.list_objects(prefix)]
