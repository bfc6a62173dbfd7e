"""An object store in a bucket of S3, GCS or Azure."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, S3Store, from_url

from palettery.app.errors import BadInput, ObjectMissing
from palettery.app.storage.base import Storage, StoredObject
from palettery.app.storage.bucket_errors import is_transient, translate
from palettery.app.storage.streams import (
    AsyncPieces,
    CancellableStream,
    Pieces,
    as_async,
    batches,
    chain_pieces,
)

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutResult
    from obstore.store import ClientConfig, RetryConfig

PART_BYTES = 12 << 20
"""Bytes per part of a multipart upload; 10,000 parts are allowed, over 100 GiB."""
MAX_COPY_BYTES = 5 << 30
"""The largest object that one request can copy.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html.
"""
DELETE_BATCH = 1_000
"""Objects per delete request."""
RETRY_S = 60.0
"""Time for which a request is retried while the store is unavailable."""
READ_TIMEOUT_S = 30.0
"""Read timeout of a request; a part must be sent within it."""
COPY_READ_TIMEOUT_S = 300.0
"""Read timeout of a copy: some stores answer only once it is complete."""
CONNECT_TIMEOUT_S, PROBE_TIMEOUT_S, REQUEST_TIMEOUT_S = 5.0, 1.5, 3_600.0
MAX_RETRIES = 1_000
"""Maximum number of retries, high enough that `RETRY_S` is the limit."""
PAUSE_S, MAX_PAUSE_S = 0.1, 2.0
"""Delay before the first retry, which doubles with each further one, and its maximum."""
ABORT_S = 5.0
"""Timeout for aborting the multipart upload of a cancelled write."""
CLIENT_VARIABLES = ("ALLOW_HTTP", "ALLOW_INVALID_CERTIFICATES", "PROXY_URL")
"""Variables, without the cloud's prefix, that obstore ignores if client options are passed."""
VARIABLE_PREFIXES = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}

T = TypeVar("T")


@dataclass(frozen=True)
class Bucket(Storage):
    """An object store in a bucket, or below a prefix of one.

    obstore retries most requests itself. This class retries interrupted responses, and requests
    that HTTP does not define as idempotent.
    """

    store: ObjectStore

    def read(self, path: str, offset: int = 0, size_bytes: int | None = None) -> memoryview:
        """See `Storage.read`."""
        if size_bytes is None:
            data = self._retry(path, lambda: obstore.get(self.store, path).bytes())
            return memoryview(data)[offset:]
        if size_bytes == 0:
            return memoryview(b"")
        data = self._retry(
            path, lambda: obstore.get_range(self.store, path, start=offset, length=size_bytes)
        )
        if len(data) < size_bytes:
            missing = size_bytes - len(data)
            raise ObjectMissing(f"{path} ends {missing:,} bytes before the range does")
        return memoryview(data)

    def write(self, path: str, data: bytes | memoryview | Pieces) -> None:
        """See `Storage.write`."""
        if isinstance(data, bytes | memoryview) and len(data) <= PART_BYTES:
            self._put(path, data)
        else:
            pieces = _split_parts(data) if isinstance(data, bytes | memoryview) else data
            asyncio.run(self.write_stream(path, as_async(pieces)))

    async def write_stream(self, path: str, data: AsyncPieces) -> None:
        """See `Storage.write_stream`; one request suffices for up to `PART_BYTES`."""
        parts = batches(data, PART_BYTES + 1)
        first = await anext(parts, None) or []
        if sum(map(len, first)) <= PART_BYTES:
            await asyncio.to_thread(self._put, path, b"".join(first))
        else:
            await self._put_multipart(path, chain_pieces(first, data))

    @property
    def supports_presigned_urls(self) -> bool:
        """See `Storage.supports_presigned_urls`."""
        return isinstance(self.store, S3Store)

    def presigned_put_urls(self, paths: Sequence[str], valid_for: timedelta) -> Sequence[str]:
        """See `Storage.presigned_put_urls`."""
        if not isinstance(store := self.store, S3Store):
            return super().presigned_put_urls(paths, valid_for)
        return self._retry(self.url, lambda: obstore.sign(store, "PUT", list(paths), valid_for))

    def copy(self, source: str, target: str) -> None:
        """See `Storage.copy`."""
        size_bytes = self.size_bytes(source)
        if source == target:
            return  # stores refuse to copy an object to itself
        if size_bytes > MAX_COPY_BYTES:
            self.write(target, self.chunks(source, 0, size_bytes))
        else:
            self._retry(source, lambda: obstore.copy(self._copy_store, source, target))

    def size_bytes(self, path: str) -> int:
        """See `Storage.size_bytes`."""
        return int(self._retry(path, lambda: obstore.head(self.store, path))["size"])

    def health_problem(self) -> str | None:
        """See `Storage.health_problem`; the bucket must exist and permit access."""
        path = "palettery-health-check"
        try:
            obstore.get(self._probe_store, path)
        except (BaseError, OSError) as error:
            failure = translate(error, path, self.url)
            return None if isinstance(failure, ObjectMissing) else failure.detail
        return None

    def delete(self, *paths: str) -> None:
        """See `Storage.delete`."""
        if not paths:
            return
        try:
            self._retry(paths[0], lambda: obstore.delete(self.store, list(paths)))
        except ObjectMissing:  # some clouds report it and delete no further
            if len(paths) > 1:
                for path in paths:
                    self.delete(path)

    def delete_folder(self, prefix: str) -> None:
        """See `Storage.delete_folder`."""
        remaining = iter(self.list(prefix))
        while paths := list(islice(remaining, DELETE_BATCH)):
            self.delete(*paths)

    def delete_unfinished(self, prefix: str, before: datetime) -> int:  # noqa: ARG002
        """See `Storage.delete_unfinished`."""
        return 0

    def list_objects(self, prefix: str) -> Iterator[StoredObject]:
        """See `Storage.list_objects`."""
        last: str | None = None
        stream = None

        def next_page() -> "Sequence[ObjectMeta]":
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

        while page := self._retry(prefix, next_page):
            for item in page:
                yield StoredObject(item["path"], item["size"], item["last_modified"])
            last = page[-1]["path"]

    def _put(self, path: str, data: bytes | memoryview) -> None:
        self._retry(path, lambda: obstore.put(self.store, path, data, use_multipart=False))

    async def _put_multipart(self, path: str, data: AsyncPieces) -> None:
        """Upload in parts; obstore aborts the upload when the source fails or is cancelled."""
        source = CancellableStream(data)
        upload = asyncio.ensure_future(
            obstore.put_async(self.store, path, source, chunk_size=PART_BYTES, max_concurrency=2)
        )
        try:
            await asyncio.shield(upload)
        except asyncio.CancelledError:
            source.cancel()
            upload.add_done_callback(_ignore_result)
            await asyncio.wait([upload], timeout=ABORT_S)
            raise
        except (BaseError, OSError) as error:
            raise translate(error, path, self.url) from error

    def _retry(self, path: str, request: Callable[[], T]) -> T:
        deadline, pause_s = time.monotonic() + RETRY_S, PAUSE_S
        while True:
            try:
                return request()
            except (BaseError, OSError) as error:
                if not is_transient(error) or time.monotonic() > deadline:
                    raise translate(error, path, self.url) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    @cached_property
    def _probe_store(self) -> ObjectStore:
        return _connect(
            self.url, read_timeout_s=PROBE_TIMEOUT_S, timeout_s=PROBE_TIMEOUT_S, retry_s=0
        )

    @cached_property
    def _copy_store(self) -> ObjectStore:
        return _connect(
            self.url,
            read_timeout_s=COPY_READ_TIMEOUT_S,
            timeout_s=REQUEST_TIMEOUT_S,
            retry_s=RETRY_S,
        )


def open_bucket(url: str) -> Bucket:
    """Open the bucket, and the prefix in it, of an `s3://`, `gs://` or `az://` URL.

    Raises:
        BadInput: the URL names no bucket, or the environment lacks required settings.
    """
    try:
        store = _connect(
            url, read_timeout_s=READ_TIMEOUT_S, timeout_s=REQUEST_TIMEOUT_S, retry_s=RETRY_S
        )
    except (BaseError, ValueError) as error:
        summary = str(error).split("\n", 1)[0]
        raise BadInput(f"cannot open the store {url!r}: {summary}") from error
    return Bucket(url, store)


def _connect(url: str, *, read_timeout_s: float, timeout_s: float, retry_s: float) -> ObjectStore:
    prefix = VARIABLE_PREFIXES[urlsplit(url).scheme]
    variables = {key.lower(): os.environ.get(f"{prefix}_{key}") for key in CLIENT_VARIABLES}
    client = {
        "connect_timeout": timedelta(seconds=min(CONNECT_TIMEOUT_S, read_timeout_s)),
        "read_timeout": timedelta(seconds=read_timeout_s),
        "timeout": timedelta(seconds=timeout_s),
        **{key: value for key, value in variables.items() if value is not None},
    }
    retry: RetryConfig = {
        "max_retries": MAX_RETRIES if retry_s else 0,
        "retry_timeout": timedelta(seconds=retry_s),
        "backoff": {
            "init_backoff": timedelta(seconds=PAUSE_S),
            "max_backoff": timedelta(seconds=MAX_PAUSE_S),
        },
    }
    return from_url(url, client_options=cast("ClientConfig", client), retry_config=retry)


def _ignore_result(written: "asyncio.Future[PutResult]") -> None:
    if not written.cancelled():
        written.exception()  # retrieve it, or asyncio logs a warning


def _split_parts(data: bytes | memoryview) -> Iterator[memoryview]:
    view = memoryview(data)
    for start in range(0, len(view), PART_BYTES):
        yield view[start : start + PART_BYTES]
