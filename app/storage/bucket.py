"""A bucket of S3, GCS or Azure as a store."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, S3Store, from_url

from palettery.app.errors import BadInput, ObjectMissing, Unavailable
from palettery.app.storage.base import Storage, StoredObject
from palettery.app.storage.failures import passes, translated
from palettery.app.storage.streams import AsyncPieces, Pieces, gathered

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutResult
    from obstore.store import ClientConfig, RetryConfig

PART_BYTES = 12 << 20
"""Bytes per part of a streamed write; a bucket takes 10,000 parts, over 100 GiB of these."""
MOST_COPIED_BYTES = 5 << 30
"""A larger object cannot be copied by one request.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html.
"""
MOST_DELETED = 1_000
"""Objects that one request deletes."""
PERSIST_S = 60.0
"""How long a request is repeated while the store is away."""
SILENCE_S = 30.0
"""A request whose answer rests for so long is repeated; a part must be sent within it."""
COPY_SILENCE_S = 300.0
"""The same for a copy, of which some stores say nothing until it is done."""
CONNECT_S, PROBE_S, REQUEST_S = 5.0, 1.5, 3_600.0
MOST_RETRIES = 1_000
"""So many that the time is the limit."""
PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
CUT_OFF_S = 5.0
"""How long a write that was cut off may take to tell the store so."""
CLIENT_VARIABLES = ("ALLOW_HTTP", "ALLOW_INVALID_CERTIFICATES", "PROXY_URL")
"""Variables, after the cloud's prefix, that obstore does not read once it is given options."""
VARIABLE_PREFIXES = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}

T = TypeVar("T")


@dataclass(frozen=True)
class Bucket(Storage):
    """A store in a bucket, or below a prefix of one.

    obstore repeats a request by itself where it can. What it does not repeat is repeated here: an
    answer that breaks off in some places, requests that HTTP does not hold to be repeatable.
    """

    store: ObjectStore

    def read(self, path: str, offset: int = 0, size_bytes: int | None = None) -> memoryview:
        """See `Storage.read`."""
        if size_bytes is None:
            found = self._persist(path, lambda: obstore.get(self.store, path).bytes())
            return memoryview(found)[offset:]
        if size_bytes == 0:
            return memoryview(b"")
        found = self._persist(
            path, lambda: obstore.get_range(self.store, path, start=offset, length=size_bytes)
        )
        if len(found) < size_bytes:
            missing = size_bytes - len(found)
            raise ObjectMissing(f"{path} ends {missing:,} bytes before the range does")
        return memoryview(found)

    def write(self, path: str, data: bytes | memoryview | Pieces) -> None:
        """See `Storage.write`."""
        if isinstance(data, bytes | memoryview) and len(data) <= PART_BYTES:
            self._put(path, data)
        else:
            pieces = _parts(data) if isinstance(data, bytes | memoryview) else data
            asyncio.run(self.write_stream(path, _as_async(pieces)))

    async def write_stream(self, path: str, data: AsyncPieces) -> None:
        """See `Storage.write_stream`; what fits into a part is written by one request."""
        parts = gathered(data, PART_BYTES + 1)
        first = await anext(parts, None) or []
        if sum(map(len, first)) <= PART_BYTES:
            await asyncio.to_thread(self._put, path, b"".join(first))
        else:
            await self._put_parts(path, _after(first, data))

    @property
    def lets_others_write(self) -> bool:
        """See `Storage.lets_others_write`."""
        return isinstance(self.store, S3Store)

    def signed_puts(self, paths: Sequence[str], valid_for: timedelta) -> Sequence[str]:
        """See `Storage.signed_puts`."""
        if not isinstance(store := self.store, S3Store):
            return super().signed_puts(paths, valid_for)
        return self._persist(self.url, lambda: obstore.sign(store, "PUT", list(paths), valid_for))

    def copy(self, source: str, target: str) -> None:
        """See `Storage.copy`."""
        size_bytes = self.size_bytes(source)
        if source == target:
            return  # which stores refuse to copy
        if size_bytes > MOST_COPIED_BYTES:
            self.write(target, self.chunks(source, 0, size_bytes))
        else:
            self._persist(source, lambda: obstore.copy(self._copier, source, target))

    def size_bytes(self, path: str) -> int:
        """See `Storage.size_bytes`."""
        return int(self._persist(path, lambda: obstore.head(self.store, path))["size"])

    def fault(self) -> str | None:
        """See `Storage.fault`; the bucket must be there, and let us in."""
        path = "palettery-asks-whether-the-store-answers"
        try:
            obstore.get(self._probe, path)
        except (BaseError, OSError) as error:
            failed = translated(error, path, self.url)
            return None if isinstance(failed, ObjectMissing) else failed.detail
        return None

    def delete(self, *paths: str) -> None:
        """See `Storage.delete`."""
        if not paths:
            return
        try:
            self._persist(paths[0], lambda: obstore.delete(self.store, list(paths)))
        except ObjectMissing:  # some clouds say so, and stop there
            if len(paths) > 1:
                for path in paths:
                    self.delete(path)

    def delete_folder(self, prefix: str) -> None:
        """See `Storage.delete_folder`."""
        found = iter(self.list(prefix))
        while paths := list(islice(found, MOST_DELETED)):
            self.delete(*paths)

    def delete_unfinished(self, prefix: str, before: datetime) -> int:  # noqa: ARG002
        """See `Storage.delete_unfinished`."""
        return 0

    def listed(self, prefix: str) -> Iterator[StoredObject]:
        """See `Storage.listed`."""
        last: str | None = None
        stream = None

        def following() -> "Sequence[ObjectMeta]":
            nonlocal stream
            if stream is None:
                stream = iter(
                    obstore.list(self.store, prefix or None, offset=last, chunk_size=1_000)
                )
            try:
                return next(stream, ())
            except BaseError:
                stream = None
                raise

        while found := self._persist(prefix, following):
            for item in found:
                yield StoredObject(item["path"], item["size"], item["last_modified"])
            last = found[-1]["path"]

    def _put(self, path: str, data: bytes | memoryview) -> None:
        self._persist(path, lambda: obstore.put(self.store, path, data, use_multipart=False))

    async def _put_parts(self, path: str, data: AsyncPieces) -> None:
        """Write in parts, which obstore takes back if the source fails: a cut-off makes it fail."""
        source = _Source(data)
        writing = asyncio.ensure_future(
            obstore.put_async(self.store, path, source, chunk_size=PART_BYTES, max_concurrency=2)
        )
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            source.cut_off()
            writing.add_done_callback(_forget)
            await asyncio.wait([writing], timeout=CUT_OFF_S)
            raise
        except (BaseError, OSError) as error:
            raise translated(error, path, self.url) from error

    def _persist(self, path: str, request: Callable[[], T]) -> T:
        deadline, pause_s = time.monotonic() + PERSIST_S, PAUSE_S
        while True:
            try:
                return request()
            except (BaseError, OSError) as error:
                if not passes(error) or time.monotonic() > deadline:
                    raise translated(error, path, self.url) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    @cached_property
    def _probe(self) -> ObjectStore:
        return _connected(self.url, silence_s=PROBE_S, request_s=PROBE_S, persist_s=0)

    @cached_property
    def _copier(self) -> ObjectStore:
        return _connected(
            self.url, silence_s=COPY_SILENCE_S, request_s=REQUEST_S, persist_s=PERSIST_S
        )


class _Source:
    """An async stream that can be made to fail from outside."""

    def __init__(self, data: AsyncPieces) -> None:
        self._data, self._is_cut_off = data, False
        self._step: asyncio.Task[object] | None = None

    def __aiter__(self) -> "_Source":
        return self

    async def __anext__(self) -> bytes | memoryview:
        if self._is_cut_off:
            raise Unavailable("the write was cut off")
        self._step = asyncio.current_task()
        try:
            return await anext(self._data)
        except asyncio.CancelledError:
            raise Unavailable("the write was cut off") from None
        finally:
            self._step = None

    def cut_off(self) -> None:
        self._is_cut_off = True
        if self._step is not None:
            self._step.cancel()


def open_bucket(url: str) -> Bucket:
    """The bucket, and the prefix in it, of an `s3://`, `gs://` or `az://` URL.

    Raises:
        BadInput: the URL names no bucket, or the environment lacks what the store needs to know.
    """
    try:
        store = _connected(url, silence_s=SILENCE_S, request_s=REQUEST_S, persist_s=PERSIST_S)
    except (BaseError, ValueError) as error:
        summary = str(error).split("\n", 1)[0]
        raise BadInput(f"no store can be opened at {url!r}: {summary}") from error
    return Bucket(url, store)


def _connected(url: str, *, silence_s: float, request_s: float, persist_s: float) -> ObjectStore:
    prefix = VARIABLE_PREFIXES[urlsplit(url).scheme]
    given = {key.lower(): os.environ.get(f"{prefix}_{key}") for key in CLIENT_VARIABLES}
    client = {
        "connect_timeout": timedelta(seconds=min(CONNECT_S, silence_s)),
        "read_timeout": timedelta(seconds=silence_s),
        "timeout": timedelta(seconds=request_s),
        **{key: value for key, value in given.items() if value is not None},
    }
    retry: RetryConfig = {
        "max_retries": MOST_RETRIES if persist_s else 0,
        "retry_timeout": timedelta(seconds=persist_s),
        "backoff": {
            "init_backoff": timedelta(seconds=PAUSE_S),
            "max_backoff": timedelta(seconds=LONGEST_PAUSE_S),
        },
    }
    return from_url(url, client_options=cast("ClientConfig", client), retry_config=retry)


def _forget(written: "asyncio.Future[PutResult]") -> None:
    if not written.cancelled():
        written.exception()  # of a write that nobody waits for


def _parts(data: bytes | memoryview) -> Iterator[memoryview]:
    view = memoryview(data)
    for start in range(0, len(view), PART_BYTES):
        yield view[start : start + PART_BYTES]


async def _as_async(pieces: Pieces) -> AsyncIterator[bytes | memoryview]:
    for piece in pieces:
        yield piece


async def _after(first: Pieces, rest: AsyncPieces) -> AsyncIterator[bytes | memoryview]:
    for piece in first:
        yield piece
    async for piece in rest:
        yield piece
