"""Files to a server, part by part: what it has already is not sent again."""

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

from palettery.app.client.connection import Connection, parsed
from palettery.app.client.digests import Digests, pieces
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

AT_ONCE = 4
"""Parts sent at once: one alone would not fill a long line."""
TRIES = 3
"""At completing an upload of which the server loses parts."""
Stage = Literal["reading", "sending"]
Advance = Callable[[Stage, int, int], None]
"""Called with (stage, bytes done, bytes in all)."""


class FilesUpload:
    """The files of one model on their way to a server.

    Which parts have come in is the server's knowledge alone: files with the same names and bytes
    find their unfinished upload again by the Idempotency-Key that is made of them.
    """

    def __init__(
        self,
        connection: Connection,
        paths: Sequence[Path],
        chosen: Mapping[str, object],
        *,
        direct: bool,
    ) -> None:
        self._connection, self._paths = connection, paths
        self._chosen = {name: value for name, value in chosen.items() if value is not None}
        """What else of the upload the user has chosen: its label, the bytes of a part."""
        self._is_direct = direct
        self._digests = Digests()

    async def run(self, advance: Advance) -> Model:
        """The model that they are on the server.

        Raises:
            BadInput: a file cannot be read.
            InvalidUpload: a file changed while it was sent.
        """
        new = await self._announced(advance)
        upload = await self._found(new)
        for _ in range(TRIES - 1):
            try:
                return await self._sent(upload, advance)
            except (PartsMissing, UploadExpired):
                upload = await self._found(new)
            except InvalidUpload:
                await run_sync(self._digests.forget, self._paths)
                raise
        return await self._sent(upload, advance)

    async def _announced(self, advance: Advance) -> dict[str, object]:
        """What the server is told of the files; it says what is wrong with that."""
        sizes, done, files = [_size_bytes(path) for path in self._paths], 0, []

        def read(size_bytes: int) -> None:
            nonlocal done
            from_thread.check_cancelled()  # nobody wants to wait for 20 GB after Ctrl-C
            done += size_bytes
            from_thread.run_sync(advance, "reading", done, sum(sizes))

        part_bytes = cast("int", self._chosen.get("part_size_bytes", PART_BYTES))
        for path, size_bytes in zip(self._paths, sizes, strict=True):
            with _readable(path):
                digest = await run_sync(self._digests.of, path, part_bytes, read)
            files.append({"name": path.name, "size_bytes": size_bytes, "sha256": digest})
        return {"files": files, **self._chosen}

    async def _found(self, new: dict[str, object]) -> Upload:
        """The upload of these files, begun now or before."""
        before = ""
        while True:
            key = sha256(json.dumps([new, before], sort_keys=True).encode()).hexdigest()
            upload = await self._connection.post(
                Upload,
                "/v1/uploads",
                json=new,
                headers={"Idempotency-Key": key},
                params={"presign": True} if self._is_direct else None,
            )
            if upload.state == "open" or await self._is_there(upload):
                return upload
            before = upload.id  # the model, or a file, was removed since: they are new again

    async def _is_there(self, upload: Upload) -> bool:
        if not all(file.is_present for file in upload.files):
            return False
        try:
            await self._connection.call("GET", f"/v1/models/{upload.model_id}")
        except NotFound:
            return False
        return True

    async def _sent(self, upload: Upload, advance: Advance) -> Model:
        """Send what is missing, and have it made a model."""
        missing = iter([part for part in upload.parts if not part.is_received])
        done = upload.size_bytes - sum(
            part.size_bytes for part in upload.parts if not part.is_received
        )
        advance("sending", done, upload.size_bytes)

        async def work() -> None:
            nonlocal done
            for part in missing:
                await self._send(part)
                done += part.size_bytes
                advance("sending", done, upload.size_bytes)

        try:
            async with anyio.create_task_group() as group:
                for _ in range(AT_ONCE):
                    group.start_soon(work)
        except* PaletteryError as failures:
            failed = failures.exceptions[0]  # the others were cut off by it
        else:
            answer = await self._connection.call("POST", f"/v1/uploads/{upload.id}/complete")
            return parsed(Model, answer)
        raise failed

    async def _send(self, part: UploadPart) -> None:
        path = self._paths[part.file]
        with _readable(path):
            place = (path, part.offset, part.size_bytes)
            digest = await run_sync(self._digests.of_part, *place)
            headers = {
                "Content-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:",
                "Content-Length": str(part.size_bytes),
                "Content-Type": "application/octet-stream",
            }

            is_direct = not part.url.startswith("/")

            async def once() -> None:
                body = _body(path, part.offset, part.size_bytes)
                put = self._connection.put_elsewhere if is_direct else self._connection.put
                await put(part.url, content=body, headers=headers)

            try:
                await self._connection.again(once)
            except Conflict:
                if is_direct:
                    raise
                return  # somebody who sent the same files has completed the upload


async def _body(path: Path, offset: int, size_bytes: int) -> AsyncIterator[bytes]:
    """A range of a file, each piece read on a thread."""
    coming = pieces(path, offset, size_bytes)
    while piece := await run_sync(next, coming, b""):
        yield piece


def _size_bytes(path: Path) -> int:
    check_readable(path)
    with _readable(path):
        return path.stat().st_size


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise BadInput(f"{path} became shorter while it was read; try again") from error
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
