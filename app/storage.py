"""Bytes in an object store: a local folder, S3, GCS or Azure behind one URL."""

import asyncio
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from app.errors import ObjectMissing, StorageFailed, StorageFull, Unavailable

CHUNK_BYTES = 8 << 20
"""Bytes per part of a streamed write and per chunk of a streamed read."""


@dataclass(frozen=True)
class StoredObject:
    path: str
    size_bytes: int
    modified_at: "datetime"


@dataclass(frozen=True)
class Storage:
    """An object store; every write appears under its path whole, or not at all.

    Local files are written aside, synced and renamed; object stores do this by themselves.
    """

    url: str
    store: ObjectStore
    root: Path | None
    """The folder, when the store is local."""

    def read(self, path: str, offset: int = 0, size_bytes: int | None = None) -> memoryview:
        """Bytes of an object, or of a range of it.

        Raises:
            ObjectMissing: nothing lies there, or the range ends behind the object's end.
        """
        try:
            if size_bytes is None:
                return memoryview(obstore.get(self.store, path).bytes())
            if size_bytes == 0:
                return memoryview(b"")
            found = obstore.get_range(self.store, path, start=offset, length=size_bytes)
        except (BaseError, OSError) as error:
            raise _translated(error, path) from error
        if len(found) != size_bytes:
            raise ObjectMissing(
                f"{path} ends {size_bytes - len(found)} bytes before the range does"
            )
        return memoryview(found)

    def chunks(self, path: str, offset: int, size_bytes: int) -> Iterator[memoryview]:
        """A range of an object in pieces of at most `CHUNK_BYTES`."""
        for start in range(offset, offset + size_bytes, CHUNK_BYTES):
            yield self.read(path, start, min(CHUNK_BYTES, offset + size_bytes - start))

    def write(self, path: str, data: bytes | memoryview | Iterable[bytes | memoryview]) -> None:
        """Put an object; an iterable is streamed, and may read this store meanwhile."""
        pieces = (data,) if isinstance(data, bytes | memoryview) else data
        asyncio.run(self.write_stream(path, _as_async(pieces)))

    async def write_stream(self, path: str, data: AsyncIterator[bytes | memoryview]) -> None:
        """Put an object from an async stream, holding a few chunks of it at most."""
        aside = path if self.root is None else f"{path}.{uuid.uuid4().hex}.aside"
        try:
            await obstore.put_async(
                self.store, aside, data, chunk_size=CHUNK_BYTES, max_concurrency=2
            )
            if self.root is not None:
                await asyncio.to_thread(self._settle, aside, path)
        except (BaseError, OSError) as error:
            raise _translated(error, path) from error

    def move(self, source: str, target: str) -> None:
        """Rename an object, over whatever lies at the target."""
        try:
            if self.root is not None:
                self._settle(source, target)
            else:
                obstore.rename(self.store, source, target)
        except (BaseError, OSError) as error:
            raise _translated(error, source) from error

    def size_bytes(self, path: str) -> int:
        """Size of an object.

        Raises:
            ObjectMissing: nothing lies there.
        """
        try:
            return int(obstore.head(self.store, path)["size"])
        except (BaseError, OSError) as error:
            raise _translated(error, path) from error

    def exists(self, path: str) -> bool:
        """Whether an object lies at the path."""
        try:
            obstore.head(self.store, path)
        except (NotFoundError, FileNotFoundError):
            return False
        except (BaseError, OSError) as error:
            raise _translated(error, path) from error
        return True

    def is_reachable(self) -> bool:
        """Whether the store answers."""
        try:
            return not self.exists("palettery-asks-whether-the-store-answers")
        except Unavailable:
            return False

    def list(self, prefix: str) -> list[str]:
        """Paths below a folder."""
        try:
            return [found["path"] for batch in obstore.list(self.store, prefix) for found in batch]
        except (BaseError, OSError) as error:
            raise _translated(error, prefix) from error

    def listed(self, prefix):
        return [
            StoredObject(f["path"], f["size"], f["last_modified"])
            for b in obstore.list(self.store, prefix)
            for f in b
        ]

    def copy(self, source, target):
        try:
            obstore.copy(self.store, source, target)
        except (BaseError, OSError) as error:
            raise _translated(error, source) from error

    def remove_unfinished(self, age):
        pass

    def delete(self, *paths: str) -> None:
        """Delete objects; those already gone do not count."""
        for path in paths:
            try:
                obstore.delete(self.store, path)
            except (NotFoundError, FileNotFoundError):
                continue
            except (BaseError, OSError) as error:
                raise _translated(error, path) from error

    def delete_folder(self, prefix: str) -> None:
        """Delete everything below a folder, half-written files included."""
        if self.root is not None:
            shutil.rmtree(self.root / prefix, ignore_errors=True)
        else:
            self.delete(*self.list(prefix))

    def _settle(self, aside: str, path: str) -> None:
        """Sync a local file and give it its name, so that a power cut leaves all of it or none."""
        assert self.root is not None  # noqa: S101 - callers checked
        source, target = self.root / aside, self.root / path
        _sync(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        _sync(target.parent)


def open_storage(url: str) -> Storage:
    """The store behind a URL: `file:///folder` (made when absent), `s3://bucket/prefix`, and so on.

    Credentials come from the environment, under the names each cloud's own tools use.
    Source: https://developmentseed.org/obstore/latest/api/store/.
    """
    parts = urlsplit(url)
    if parts.scheme != "file":
        return Storage(url, from_url(url), None)
    root = Path(unquote(parts.path))
    root.mkdir(parents=True, exist_ok=True)
    return Storage(url, LocalStore(prefix=root), root)


async def _as_async(
    pieces: Iterable[bytes | memoryview],
) -> AsyncIterator[bytes | memoryview]:
    for piece in pieces:
        yield piece


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _translated(error: Exception, path: str) -> ObjectMissing | StorageFull | StorageFailed:
    if isinstance(error, NotFoundError | FileNotFoundError):
        return ObjectMissing(f"nothing is stored at {path}")
    if "No space left" in str(error) or "os error 28" in str(error):
        return StorageFull("the store is full; free some space, then retry")
    return StorageFailed(f"the store failed at {path}: {error}")
