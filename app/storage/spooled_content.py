"""Bytes of requests and answers in files, where they take no memory while they wait."""

import os
import tempfile
import weakref
from collections.abc import AsyncIterator, Iterator

IN_MEMORY_BYTES = 256 << 10
"""More than that lies in a file."""
PIECE_BYTES = 256 << 10


class SpooledContent:
    """Bytes in a file without a name, which is gone with this object.

    Another process that is sent one gets `bytes`.
    """

    def __init__(self, content: bytes = b"") -> None:
        with tempfile.TemporaryFile(prefix="palettery-") as file:
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)
        self._size_bytes = 0
        if content:
            self.append(content)

    def append(self, piece: bytes | bytearray) -> None:
        """Add bytes at the end."""
        with memoryview(piece) as rest:
            written = 0
            while written < len(rest):
                written += os.pwrite(self._file, rest[written:], self._size_bytes + written)
        self._size_bytes += written

    def read(self, start: int, size_bytes: int) -> bytes:
        """Return bytes from a position on."""
        return os.pread(self._file, size_bytes, start)

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        """Return all bytes from a position on, one piece after the other."""
        for begin in range(start, self._size_bytes, PIECE_BYTES):
            yield self.read(begin, PIECE_BYTES)

    def __len__(self) -> int:
        """Number of bytes."""
        return self._size_bytes

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (b"".join(self.pieces()),)


Content = bytes | SpooledContent
"""Bytes wherever they lie."""


def pieces(content: Content) -> Iterator[bytes]:
    """Return all bytes of a content, one piece after the other."""
    return content.pieces() if isinstance(content, SpooledContent) else iter((content,))


async def collected(coming: AsyncIterator[bytes], most_bytes: int) -> Content | None:
    """Return all bytes that come; None if there are more than may be."""
    held, spooled = bytearray(), None
    async for piece in coming:
        held += piece
        if len(held) + (len(spooled) if spooled else 0) > most_bytes:
            return None
        if len(held) > IN_MEMORY_BYTES:
            spooled = spooled or SpooledContent()
            spooled.append(held)
            held.clear()
    if spooled is None:
        return bytes(held)
    spooled.append(held)
    return spooled
