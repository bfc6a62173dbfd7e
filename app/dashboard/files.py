"""The page's static files, with ETag and gzip.

Not Starlette's StaticFiles behind GZipMiddleware: that compresses plotly.js anew for every request,
0.15 s on the event loop, and gives the compressed and the plain file the same strong ETag.
"""

import gzip
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distribution
from pathlib import Path
from threading import Lock

HERE = Path(__file__).parent
"""Folder of the page's own files."""
PLOTLY = Path(str(distribution("plotly").locate_file("plotly/package_data/plotly.min.js")))
"""plotly.js, which draws the charts, from its Python package."""
LEVEL = 6
"""gzip level; 9 takes twice as long for one per cent less."""
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Media types by suffix; files with other suffixes, such as this one, are not served."""
_COMPRESSING = Lock()
"""Lets concurrent requests wait for one compression instead of repeating it."""


@dataclass(frozen=True)
class Body:
    """A file in one content encoding."""

    data: bytes
    etag: str
    media_type: str
    is_gzipped: bool


def body_of(path: Path, *, is_gzipped: bool) -> Body:
    """Return a file, read and compressed again only when it has changed.

    Raises:
        FileNotFoundError: there is no such file.
    """
    status = path.stat()
    with _COMPRESSING:
        return _body(path, status.st_mtime_ns, status.st_size, is_gzipped)


@lru_cache(maxsize=200)
def _body(path: Path, _modified: int, _size_bytes: int, is_gzipped: bool) -> Body:
    data = path.read_bytes()
    if is_gzipped:
        data = gzip.compress(data, LEVEL, mtime=0)
    etag = f'"{hashlib.sha256(data).hexdigest()}"'
    return Body(data, etag, MEDIA_TYPES[path.suffix], is_gzipped)
