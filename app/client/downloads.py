"""Artifacts into files: resumed where an earlier try stopped, whole and checked, or not there."""

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
    """Fetch an artifact of which the digest of each file is known."""
    files = places(digests, out)
    for name, file in files.items():
        path = f"/v1/jobs/{job_id}/artifact/{quote(name)}"
        await Download(connection, path, file, digests[name]).run(advance)
    return tuple(files.values())


def places(names: Iterable[str], out: Path) -> dict[str, Path]:
    """Where each file of an artifact goes: to `out`, or into it when there are several.

    Raises:
        BadInput: `out` is no folder, and cannot become one.
        PaletteryError: a name leads out of it.
    """
    names = list(names)
    if len(names) == 1:
        return {names[0]: out}
    if out.exists() and not out.is_dir():
        raise BadInput(f"the artifact has {len(names)} files, and {out} is no folder; name one")
    if any(name in ("", ".", "..") or Path(name).name != name for name in names):
        raise PaletteryError(f"the artifact's files have names that are none: {names}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the folder {out}: {error.strerror}") from error
    return {name: out / name for name in names}


class Download:
    """One file on its way to `out`, of which the SHA-256 is known beforehand.

    What has come in lies beside `out`, named by the digest, also when this process is killed; the
    next one that wants the same bytes goes on from there. A stream gets all of it at the end.

    Raises:
        BadInput: `out` cannot be written.
    """

    def __init__(self, connection: Connection, path: str, out: Path, digest: str) -> None:
        self._connection = connection
        self._path, self._out, self._digest = path, Output(out), digest
        self._partial = self._out.beside(f"{digest[:16]}.part")
        self._hash = sha256()
        self._is_whole = False

    async def run(self, advance: Advance) -> None:
        """Fetch what is missing.

        Raises:
            PaletteryError: it cannot be written, or arrived damaged.
        """
        with self._out if self._out.is_stream else nullcontext():
            if self._out.is_stream:
                self._partial = self._out.folder / self._partial.name
            try:
                if await anyio.to_thread.run_sync(self._is_there):
                    return
                await anyio.to_thread.run_sync(self._take_up)
                self._is_whole = self._hash.hexdigest() == self._digest
                while not self._is_whole:
                    await self._connection.again(lambda: self._more(advance))
                await anyio.to_thread.run_sync(self._publish)
            except OSError as error:
                raise PaletteryError(f"cannot write {self._out}: {error.strerror}") from error

    def _is_there(self) -> bool:
        if self._out.is_stream or not self._out.place.is_file():
            return False
        with self._out.place.open("rb") as file:
            return file_digest(file, "sha256").hexdigest() == self._digest

    def _take_up(self) -> None:
        """Hash what an earlier try left."""
        with self._partial.open("a+b") as file:
            file.seek(0)
            while piece := file.read(PIECE_BYTES):
                self._hash.update(piece)

    async def _more(self, advance: Advance) -> None:
        """Fetch until the end, or until the connection is lost.

        A loss after some progress is no failure: the next try begins with fresh patience.
        """
        began = done = self._partial.stat().st_size
        headers = {"Accept-Encoding": "identity"}
        if done:
            headers |= {"Range": f"bytes={done}-", "If-Range": f'"{self._digest}"'}
        beyond = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        try:
            async with self._connection.stream(self._path, headers, accept=beyond) as response:
                if done and response.status_code != HTTPStatus.PARTIAL_CONTENT:
                    began = done = self._from_the_start()
                if response.status_code == beyond:
                    return
                total = done + int(response.headers.get("Content-Length", 0))
                with self._partial.open("ab") as file:
                    # Pieces as they come, so small that no other task waits long for them.
                    async for piece in response.aiter_raw():
                        file.write(piece)
                        self._hash.update(piece)
                        done += len(piece)
                        advance(done, total)
        except Transient:
            if done == began:
                raise
        else:
            self._is_whole = True

    def _from_the_start(self) -> int:
        self._partial.write_bytes(b"")
        self._hash = sha256()
        return 0

    def _publish(self) -> None:
        if self._hash.hexdigest() != self._digest:
            self._partial.unlink()
            raise PaletteryError(
                f"{self._out.path.name} arrived damaged: its SHA-256 differs; try again"
            )
        with self._partial.open("rb+") as file:
            os.fsync(file.fileno())
        self._out.publish(self._partial)
