"""What every kind of store can do."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from palettery.app.errors import BadInput, ObjectMissing
from palettery.app.storage.file_digest import FileDigest
from palettery.app.storage.streams import AsyncPieces, HashedStream, Pieces

CHUNK_BYTES = 8 << 20
"""Bytes per chunk of a streamed read."""


@dataclass(frozen=True)
class StoredObject:
    """An object as a listing shows it."""

    path: str
    size_bytes: int
    modified_at: datetime


class Room(NamedTuple):
    """What a store that has an end can hold."""

    free_bytes: int
    size_bytes: int


class Reads(Protocol):
    """Whatever gives the bytes of objects."""

    def read(self, path: str, offset: int = 0, size_bytes: int | None = None) -> memoryview:
        """See `Storage.read`."""

    def chunks(self, path: str, offset: int, size_bytes: int) -> Iterator[memoryview]:
        """See `Storage.chunks`."""


@dataclass(frozen=True)
class Storage(ABC):
    """An object store; every write appears under its path whole, or not at all.

    Reads and writes wait for a store that is away for a while, and fail when it stays away.
    """

    url: str

    @abstractmethod
    def read(self, path: str, offset: int = 0, size_bytes: int | None = None) -> memoryview:
        """Bytes of an object, or of a range of it.

        Raises:
            ObjectMissing: nothing lies there, or the range ends behind the object's end.
        """

    def chunks(self, path: str, offset: int, size_bytes: int) -> Iterator[memoryview]:
        """A range of an object in pieces of at most `CHUNK_BYTES`."""
        for start in range(offset, offset + size_bytes, CHUNK_BYTES):
            yield self.read(path, start, min(CHUNK_BYTES, offset + size_bytes - start))

    @abstractmethod
    def write(self, path: str, data: bytes | memoryview | Pieces) -> None:
        """Put an object; an iterable is streamed, and may read this store meanwhile."""

    @abstractmethod
    async def write_stream(self, path: str, data: AsyncPieces) -> None:
        """Put an object from an async stream, holding a few chunks of it at most."""

    async def join(self, sources: Sequence[str], target: str) -> FileDigest:
        """Put the bytes of objects, one behind the other, at another path; their digest.

        Raises:
            ObjectMissing: nothing lies at a source.
        """
        hashed = HashedStream(self._stream(sources))
        await self.write_stream(target, hashed.pieces())
        return hashed.digest

    async def _stream(self, paths: Sequence[str]) -> AsyncPieces:
        for path in paths:
            size_bytes = await asyncio.to_thread(self.size_bytes, path)
            for start in range(0, size_bytes, CHUNK_BYTES):
                length = min(CHUNK_BYTES, size_bytes - start)
                yield await asyncio.to_thread(self.read, path, start, length)

    @property
    def lets_others_write(self) -> bool:
        """Whether it signs requests, so that objects may change without passing through here."""
        return False

    def signed_puts(self, paths: Sequence[str], valid_for: timedelta) -> Sequence[str]:  # noqa: ARG002
        """Addresses to which anybody may PUT these objects for a while.

        Raises:
            BadInput: such a store signs nothing.
        """
        raise BadInput("the store of this server signs no requests; leave presign out")

    @abstractmethod
    def copy(self, source: str, target: str) -> None:
        """Put the bytes of an object at another path too, over whatever lies there.

        Raises:
            ObjectMissing: nothing lies at the source.
        """

    @abstractmethod
    def size_bytes(self, path: str) -> int:
        """Size of an object.

        Raises:
            ObjectMissing: nothing lies there.
        """

    def exists(self, path: str) -> bool:
        """Whether an object lies at the path."""
        try:
            self.size_bytes(path)
        except ObjectMissing:
            return False
        return True

    def room(self) -> Room | None:
        """What can be stored still; None for a store without an end, or that does not tell."""
        return None

    @abstractmethod
    def fault(self) -> str | None:
        """Why the store does not answer, asked for two seconds at most; None if it does."""

    @abstractmethod
    def delete(self, *paths: str) -> None:
        """Delete objects; those already gone do not count."""

    @abstractmethod
    def delete_folder(self, prefix: str) -> None:
        """Delete everything below a folder, and half-written files that can be found."""

    @abstractmethod
    def delete_unfinished(self, prefix: str, before: datetime) -> int:
        """Delete what writes that were cut off left below a folder, if untouched since `before`.

        How many there were. A bucket's unfinished multipart uploads cannot be found from here: a
        lifecycle rule of the bucket must expire them.
        """

    @abstractmethod
    def listed(self, prefix: str) -> Iterator[StoredObject]:
        """Objects below a folder; a write that is not finished is not shown."""

    def list(self, prefix: str) -> list[str]:
        """Paths of the objects below a folder."""
        return [found.path for found in self.listed(prefix)]
