"""Files of the page, as they are sent: with a digest, and packed for who can unpack."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distribution
from pathlib import Path
from threading import Lock

HERE = Path(__file__).parent
"""Where the page's own files lie."""
PLOTLY = Path(str(distribution("plotly").locate_file("plotly/package_data/plotly.min.js")))
"""What draws the charts, out of its package."""
LEVEL = 6
"""Of gzip; 9 takes twice as long for one per cent less."""
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Of what is sent; files of other kinds, such as this one, are not."""
_PACKING = Lock()
"""So that who asks at once for the same waits, instead of packing it too."""


@dataclass(frozen=True)
class Body:
    """A file in one encoding."""

    data: bytes
    etag: str
    media_type: str
    is_packed: bool


def body_of(path: Path, *, is_packed: bool) -> Body:
    """A file as it is now; it is read and packed when it has changed only.

    Raises:
        FileNotFoundError: there is no such file.
    """
    held = path.stat()
    with _PACKING:
        return _body(path, held.st_mtime_ns, held.st_size, is_packed)


@lru_cache(maxsize=200)
def _body(path: Path, _modified: int, _size_bytes: int, is_packed: bool) -> Body:
    data = path.read_bytes()
    if is_packed:
        data = gzip.compress(data, LEVEL, mtime=0)
    etag = f'"{hashlib.sha256(data).hexdigest()}"'
    return Body(data, etag, MEDIA_TYPES[path.suffix], is_packed)
