"""Downloads of artifacts into files: resumable, verified and atomic."""

import os
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from hashlib import file_digest, sha256
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import anyio.to_thread

from palettery.app.client.connection import Connection
from palettery.app.client.progress import Advance
from palettery.app.client.retries import Transient
from palettery.app.errors import BadInput, PaletteryError
from palettery.app.storage.output_files import Output

PIECE_BYTES = 1 << 20


async def download(
    connection: Connection, job_id: str, digests: Mapping[str, str], out: Path, advance: Advance
) -> tuple[Path, ...]:
    """Download the files of an artifact; `digests` are their SHA-256 by name."""
    files = target_paths(digests, out)
    for name, file in files.items():
        path = f"/v1/jobs/{job_id}/artifact/{quote(name)}"
        await Download(connection, path, file, digests[name]).run(advance)
    return tuple(files.values())


def target_paths(names: Iterable[str], out: Path) -> dict[str, Path]:
    """Return the path of each file of an artifact: `out`, or inside it when there are several.

    Raises:
        BadInput: `out` is not a folder, and cannot be created.
        PaletteryError: a name is not a plain file name.
    """
    names = list(names)
    if len(names) == 1:
        return {names[0]: out}
    if out.exists() and not out.is_dir():
        raise BadInput(f"the artifact has {len(names)} files, and {out} is not a folder; name one")
    if any(name in ("", ".", "..") or Path(name).name != name for name in names):
        raise PaletteryError(f"the artifact has invalid file names: {names}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot create the folder {out}: {error.strerror}") from error
    return {name: out / name for name in names}


class Download:
    """A download of one file of known SHA-256 to `out`.

    Received bytes are kept in a partial file beside `out`, named by the digest; another process can
    resume from it. A pipe or device receives the complete file at the end.

    Raises:
        BadInput: `out` is not writable.
    """

    def __init__(self, connection: Connection, path: str, out: Path, digest: str) -> None:
        self._connection = connection
        self._path, self._out, self._digest = path, Output(out), digest
        self._partial = self._out.sibling(f"{digest[:16]}.part")
        self._hash = sha256()
        self._is_complete = False

    async def run(self, advance: Advance) -> None:
        """Download the missing bytes, and publish the file.

        Raises:
            PaletteryError: the file cannot be written, or was damaged in transit.
        """
        with self._out if self._out.is_stream else nullcontext():
            if self._out.is_stream:
                self._partial = self._out.folder / self._partial.name
            try:
                if await anyio.to_thread.run_sync(self._is_downloaded):
                    return
                await anyio.to_thread.run_sync(self._hash_partial)
                self._is_complete = self._hash.hexdigest() == self._digest
                while not self._is_complete:
                    await self._connection.with_retries(lambda: self._receive(advance))
                await anyio.to_thread.run_sync(self._publish)
            except OSError as error:
                raise PaletteryError(f"cannot write {self._out}: {error.strerror}") from error

    def _is_downloaded(self) -> bool:
        if self._out.is_stream or not self._out.resolved_path.is_file():
            return False
        with self._out.resolved_path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest() == self._digest

    def _hash_partial(self) -> None:
        """Hash the partial file of an earlier attempt."""
        with self._partial.open("a+b") as file:
            file.seek(0)
            while piece := file.read(PIECE_BYTES):
                self._hash.update(piece)

    async def _receive(self, advance: Advance) -> None:
        """Receive bytes until the end, or until the connection is lost.

        A loss after some progress is no failure: the next attempt starts with a new retry budget.
        """
        start = done = self._partial.stat().st_size
        headers = {"Accept-Encoding": "identity"}
        if done:
            headers |= {"Range": f"bytes={done}-", "If-Range": f'"{self._digest}"'}
        past_end = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        try:
            async with self._connection.stream(self._path, headers, accept=past_end) as response:
                if done and response.status_code != HTTPStatus.PARTIAL_CONTENT:
                    start = done = self._restart()
                if response.status_code == past_end:
                    return
                total = done + int(response.headers.get("Content-Length", 0))
                with self._partial.open("ab") as file:
                    # Small pieces as received, so that other tasks are not blocked for long.
                    async for piece in response.aiter_raw():
                        file.write(piece)
                        self._hash.update(piece)
                        done += len(piece)
                        advance(done, total)
        except Transient:
            if done == start:
                raise
        else:
            self._is_complete = True

    def _restart(self) -> int:
        self._partial.write_bytes(b"")
        self._hash = sha256()
        return 0

    def _publish(self) -> None:
        if self._hash.hexdigest() != self._digest:
            self._partial.unlink()
            raise PaletteryError(
                f"{self._out.path.name} was damaged in transit: its SHA-256 differs; try again"
            )
        with self._partial.open("rb+") as file:
            os.fsync(file.fileno())
        self._out.publish(self._partial)
