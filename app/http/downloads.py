"""Downloads of stored files, with ranges and conditional requests.

Source: RFC 9110, sections 13 (preconditions) and 14 (ranges); RFC 9530 (digests); RFC 6266 (names).
"""

import base64
import re
from dataclasses import dataclass
from urllib.parse import quote

from fastapi import HTTPException, Request, Response
from fastapi.responses import StreamingResponse

from palettery.app.http.etags import is_listed_in_if_none_match, satisfies_if_match
from palettery.app.storage.base import Storage
from palettery.app.storage.prefetch import prefetch
from palettery.app.storage.verified_reader import CheckedFile, VerifiedReader

SINGLE_RANGE = re.compile(r"bytes=(\d{1,19})?-(\d{1,19})?")


@dataclass(frozen=True)
class StoredDownload:
    """A stored file for download; its bytes never change."""

    path: str
    """Path in the object store."""
    sha256: str
    """SHA-256 of its bytes in hex; the strong ETag."""
    name: str
    """File name of the download."""
    folder: str
    """Folder of the job that produced it."""


def download_response(request: Request, store: Storage, file: StoredDownload) -> Response:
    """Return the response to a download: the file, the requested range, or 304.

    Raises:
        HTTPException: 412, If-Match names another ETag; 416, the range starts after the end.
    """
    etag = f'"{file.sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, immutable, max-age=31536000",
        "Content-Disposition": _disposition(file.name),
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:",
    }
    if not satisfies_if_match(request.headers.get("if-match"), etag):
        raise HTTPException(412, f"the file has the ETag {etag}, which If-Match does not name")
    if is_listed_in_if_none_match(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    size = store.size_bytes(file.path)
    first, end = _requested_range(request, size, etag)
    headers["Content-Length"] = str(end - first)
    is_part = end - first < size
    if is_part:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    kind = "application/json" if file.path.endswith(".json") else "application/octet-stream"
    reader = VerifiedReader(store, {file.path: CheckedFile(file.sha256, file.name)}, file.folder)
    pieces = prefetch(reader, file.path, first, end)
    return StreamingResponse(pieces, 206 if is_part else 200, headers, kind)


def _requested_range(request: Request, size: int, etag: str) -> tuple[int, int]:
    """Return start and end of the requested range; an unsupported range means the whole file."""
    match = SINGLE_RANGE.fullmatch(request.headers.get("range", "").strip())
    if match is None or request.headers.get("if-range", etag) != etag:
        return 0, size
    first, last = match.groups()
    if first is None:
        if last is None:
            return 0, size
        begin, end = max(0, size - int(last)), size
    else:
        begin, end = int(first), size if last is None else min(size, int(last) + 1)
        if last is not None and int(last) < begin:
            return 0, size
    if begin >= end:
        raise HTTPException(
            416,
            f"the file has {size:,} bytes; the range starts after its end",
            {"Content-Range": f"bytes */{size}"},
        )
    return begin, end


def _disposition(name: str) -> str:
    ascii_name = re.sub(r"[^\w.() -]", "_", name, flags=re.ASCII)
    value = f'attachment; filename="{ascii_name}"'
    return value if ascii_name == name else f"{value}; filename*=utf-8''{quote(name)}"
