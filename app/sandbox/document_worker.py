"""The server's side of a process that reads documents."""

import asyncio
import pickle
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

from palettery.app.sandbox.document_process import DOCUMENT, ERROR, FAULT, HEADER, OUT_OF_MEMORY
from palettery.app.storage.spooled_content import IN_MEMORY_BYTES, PIECE_BYTES, SpooledContent


class DocumentFault(RuntimeError):
    """An unexpected exception in the other process, a bug; the message is its traceback."""


class WorkerEnded(Exception):
    """A process ended or ran out of memory."""


@dataclass
class DocumentWorker:
    """A process that reads documents, and the connection to it."""

    process: BaseProcess
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_last: bool = False
    """Whether it accepts no further task."""

    async def run(self, task: tuple[Any, ...]) -> Any:
        """Send a task, and return its result.

        Raises:
            WorkerEnded: there was no response.
        """
        try:
            self.writer.write(await asyncio.to_thread(pickle.dumps, task))
            await self.writer.drain()
            header = await self.reader.readexactly(HEADER.size)
            kind, self.is_last, size_bytes = HEADER.unpack(header)
            if kind == DOCUMENT and size_bytes > IN_MEMORY_BYTES:
                return await self._read_spooled(size_bytes)
            content = await self.reader.readexactly(size_bytes)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise WorkerEnded from error
        if kind == OUT_OF_MEMORY:
            raise WorkerEnded
        if kind == FAULT:
            raise DocumentFault(content.decode())
        if kind == DOCUMENT:
            return content
        value = (
            await asyncio.to_thread(_unpickle, content)
            if size_bytes > IN_MEMORY_BYTES
            else _unpickle(content)
        )
        if kind == ERROR:
            raise value
        return value

    async def _read_spooled(self, size_bytes: int) -> SpooledContent:
        """Read `size_bytes` into a file."""
        content = SpooledContent()
        while len(content) < size_bytes:
            piece = await self.reader.read(min(size_bytes - len(content), PIECE_BYTES))
            if not piece:
                raise WorkerEnded
            content.append(piece)
        return content


def _unpickle(content: bytes) -> Any:
    return pickle.loads(content)  # noqa: S301 - written by our own process
