"""Uploads of files to a server in parts; parts that it already has are not sent again."""

import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Literal, cast

import anyio
from anyio import from_thread
from anyio.to_thread import run_sync

from palettery.app.client.connection import Connection, parse
from palettery.app.client.digest_cache import DigestCache, pieces
from palettery.app.errors import (
    BadInput,
    Conflict,
    InvalidUpload,
    NotFound,
    PaletteryError,
    PartsMissing,
    UploadExpired,
)
from palettery.app.storage.input_files import check_readable
from palettery.schemas.models import Model
from palettery.schemas.uploads import PART_BYTES, Upload, UploadPart

CONCURRENT_PARTS = 4
"""Number of concurrent requests: one does not saturate a connection with high latency."""
MAX_COMPLETE_ATTEMPTS = 3
"""Maximum number of attempts to complete an upload if the server has lost parts."""
Stage = Literal["reading", "sending"]
Advance = Callable[[Stage, int, int], None]
"""Progress callback, called with (stage, bytes done, total bytes)."""


class FilesUpload:
    """An upload of the files of one model.

    Only the server knows which parts it has received: the same files find their unfinished upload
    by an Idempotency-Key derived from their names and digests.
    """

    def __init__(
        self,
        connection: Connection,
        paths: Sequence[Path],
        options: Mapping[str, object],
        *,
        direct: bool,
    ) -> None:
        self._connection, self._paths = connection, paths
        self._options = {name: value for name, value in options.items() if value is not None}
        """Options of the upload: label, part size."""
        self._is_direct = direct
        self._digests = DigestCache()

    async def run(self, advance: Advance) -> Model:
        """Upload the files, and return the model.

        Raises:
            BadInput: a file cannot be read.
            InvalidUpload: a file changed while it was sent.
        """
        request = await self._build_request(advance)
        upload = await self._open(request)
        for _ in range(MAX_COMPLETE_ATTEMPTS - 1):
            try:
                return await self._send_all(upload, advance)
            except (PartsMissing, UploadExpired):
                upload = await self._open(request)
            except InvalidUpload:
                await run_sync(self._digests.forget, self._paths)
                raise
        return await self._send_all(upload, advance)

    async def _build_request(self, advance: Advance) -> dict[str, object]:
        """Return the request that creates the upload, with the digests of the files."""
        sizes, done, files = [_size_bytes(path) for path in self._paths], 0, []

        def read(size_bytes: int) -> None:
            nonlocal done
            from_thread.check_cancelled()  # or Ctrl-C would wait for 20 GB
            done += size_bytes
            from_thread.run_sync(advance, "reading", done, sum(sizes))

        part_bytes = cast("int", self._options.get("part_size_bytes", PART_BYTES))
        for path, size_bytes in zip(self._paths, sizes, strict=True):
            with _translate_read_errors(path):
                digest = await run_sync(self._digests.of, path, part_bytes, read)
            files.append({"name": path.name, "size_bytes": size_bytes, "sha256": digest})
        return {"files": files, **self._options}

    async def _open(self, request: dict[str, object]) -> Upload:
        """Return the upload of these files: a new one, or an unfinished one."""
        previous_id = ""
        while True:
            key = sha256(json.dumps([request, previous_id], sort_keys=True).encode()).hexdigest()
            upload = await self._connection.post(
                Upload,
                "/v1/uploads",
                json=request,
                headers={"Idempotency-Key": key},
                params={"presign": True} if self._is_direct else None,
            )
            if upload.state == "open" or await self._is_complete(upload):
                return upload
            previous_id = upload.id  # the model or a file was deleted since: begin a new upload

    async def _is_complete(self, upload: Upload) -> bool:
        if not all(file.is_present for file in upload.files):
            return False
        try:
            await self._connection.call("GET", f"/v1/models/{upload.model_id}")
        except NotFound:
            return False
        return True

    async def _send_all(self, upload: Upload, advance: Advance) -> Model:
        """Send the missing parts, and complete the upload."""
        missing = iter([part for part in upload.parts if not part.is_received])
        done = upload.size_bytes - sum(
            part.size_bytes for part in upload.parts if not part.is_received
        )
        advance("sending", done, upload.size_bytes)

        async def send_parts() -> None:
            nonlocal done
            for part in missing:
                await self._send(part)
                done += part.size_bytes
                advance("sending", done, upload.size_bytes)

        try:
            async with anyio.create_task_group() as group:
                for _ in range(CONCURRENT_PARTS):
                    group.start_soon(send_parts)
        except* PaletteryError as failures:
            failure = failures.exceptions[0]  # the others were cancelled by it
        else:
            answer = await self._connection.call("POST", f"/v1/uploads/{upload.id}/complete")
            return parse(Model, answer)
        raise failure

    async def _send(self, part: UploadPart) -> None:
        path = self._paths[part.file]
        with _translate_read_errors(path):
            digest = await run_sync(self._digests.of_part, path, part.offset, part.size_bytes)
            headers = {
                "Content-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:",
                "Content-Length": str(part.size_bytes),
                "Content-Type": "application/octet-stream",
            }

            is_direct = not part.url.startswith("/")

            async def once() -> None:
                body = _read_range(path, part.offset, part.size_bytes)
                put = self._connection.put_external if is_direct else self._connection.put
                await put(part.url, content=body, headers=headers)

            try:
                await self._connection.with_retries(once)
            except Conflict:
                if is_direct:
                    raise
                return  # another process that sends the same files has completed the upload


async def _read_range(path: Path, offset: int, size_bytes: int) -> AsyncIterator[bytes]:
    """Yield a range of a file; each piece is read on a thread."""
    remaining = pieces(path, offset, size_bytes)
    while piece := await run_sync(next, remaining, b""):
        yield piece


def _size_bytes(path: Path) -> int:
    check_readable(path)
    with _translate_read_errors(path):
        return path.stat().st_size


@contextmanager
def _translate_read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise BadInput(f"{path} became shorter while it was read; try again") from error
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
