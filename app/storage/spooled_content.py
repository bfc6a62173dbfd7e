"""Bytes of requests and responses, spooled to files when large."""

import os
import tempfile
import weakref
from collections.abc import AsyncIterator, Iterator

IN_MEMORY_BYTES = 256 << 10
"""Size above which content is spooled to a file."""
PIECE_BYTES = 256 << 10
"""Size of one read of a file."""


class SpooledContent:
    """Bytes in an unnamed temporary file, deleted with this object.

    It is pickled as `bytes`.
    """

    def __init__(self, content: bytes = b"") -> None:
        with tempfile.TemporaryFile(prefix="palettery-") as file:
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)
        self._size_bytes = 0
        if content:
            self.append(content)

    def append(self, piece: bytes | bytearray) -> None:
        """Append bytes."""
        with memoryview(piece) as rest:
            written = 0
            while written < len(rest):
                written += os.pwrite(self._file, rest[written:], self._size_bytes + written)
        self._size_bytes += written

    def read(self, start: int, size_bytes: int) -> bytes:
        """Return bytes from an offset on."""
        return os.pread(self._file, size_bytes, start)

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        """Yield all bytes from an offset on, in pieces."""
        for begin in range(start, self._size_bytes, PIECE_BYTES):
            yield self.read(begin, PIECE_BYTES)

    def __len__(self) -> int:
        """Number of bytes."""
        return self._size_bytes

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (b"".join(self.pieces()),)


Content = bytes | SpooledContent
"""Bytes in memory or in a file."""


def pieces(content: Content) -> Iterator[bytes]:
    """Return an iterator over the bytes of a content, in pieces."""
    return content.pieces() if isinstance(content, SpooledContent) else iter((content,))


async def collect(stream: AsyncIterator[bytes], max_bytes: int) -> Content | None:
    """Return all bytes of a stream; None if there are more than `max_bytes`."""
    buffer, spooled = bytearray(), None
    async for piece in stream:
        buffer += piece
        if len(buffer) + (len(spooled) if spooled else 0) > max_bytes:
            return None
        if len(buffer) > IN_MEMORY_BYTES:
            spooled = spooled or SpooledContent()
            spooled.append(buffer)
            buffer.clear()
    if spooled is None:
        return bytes(buffer)
    spooled.append(buffer)
    return spooled
