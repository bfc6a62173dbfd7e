"""Multipart forms as streams: files go straight into the store, hashed on their way."""

import asyncio
import difflib
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from palettery.app.errors import InvalidUpload, TooLarge
from palettery.app.http.request_body import check_encoding
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.storage.checked_reads import store_digests
from palettery.app.storage.spooled_content import Content, collect, pieces
from palettery.app.storage.streams import HashingStream, coalesce
from palettery.schemas.checkpoint import StoredFile

FILE_FIELDS = ("model", "sensitivities")
TEXT_FIELDS = (
    "config",
    "config_name",
    "preset",
    "label",
    "strict",
    "priority",
    "deadline_s",
    "reuse",
    "webhook_url",
    "formats",
    "keep_dense",
)
UPLOADS = "uploads"
"""Folder of uploaded files; those that a job needs stay where they came in."""
TEXT_BYTES = 64 << 10
"""Of each field of text but the config."""
HEADER_BYTES = 16 << 10
"""Of one part's headers."""
BOUNDARY_BYTES = 70
"""Of the line between parts. Source: RFC 2046, section 5.1.1."""

Event: TypeAlias = tuple[str, bytes]
"""What the parser found: (`begin`, header block), (`data`, bytes) or (`end`, nothing)."""


@dataclass
class Form:
    """A form whose files lie in the store, under paths of their own."""

    files: dict[str, list[StoredFile]] = field(
        default_factory=lambda: {name: [] for name in FILE_FIELDS}
    )
    """Field -> its files, as they came."""
    config: Content | None = None
    """The field `config`, which may have megabytes."""
    texts: dict[str, bytes] = field(default_factory=dict)
    """The other fields."""

    def paths(self) -> list[str]:
        """Where the files lie."""
        return [file.path for files in self.files.values() for file in files]


async def read_form(request: Request, storage: Storage, limits: Limits) -> Form:
    """Read a request's form; its files are in the store when this returns, or gone when it raises.

    Raises:
        UnsupportedContentEncoding: it is compressed.
        InvalidUpload: not a form, broken off, or with fields missing, twice or unknown.
        TooLarge: over a limit, which it names.
    """
    form = Form()
    try:
        await _read(request, storage, limits, form)
    except ClientDisconnect as error:
        await asyncio.to_thread(storage.delete, *form.paths())
        raise InvalidUpload("the connection broke off before the form was complete") from error
    except BaseException:
        await asyncio.to_thread(storage.delete, *form.paths())
        raise
    return form


async def _read(request: Request, storage: Storage, limits: Limits, form: Form) -> None:
    events = _events(request, limits)
    async for kind, data in events:
        if kind != "begin":
            continue
        name, file_name = _disposition(data)
        if name in FILE_FIELDS:
            if len(form.paths()) == limits.upload_files:
                raise TooLarge(f"over {limits.upload_files:,} files; send fewer, larger shards")
            await _store_file(storage, form.files[name], file_name or name, _data(events))
        elif name in TEXT_FIELDS:
            if name in form.texts or (name == "config" and form.config is not None):
                raise InvalidUpload(f"the field {name!r} stands twice; send it once")
            if name == "config":
                form.config = await _text(name, _data(events), limits.config_bytes)
            else:
                form.texts[name] = b"".join(pieces(await _text(name, _data(events), TEXT_BYTES)))
        else:
            raise InvalidUpload(f"unknown field {name[:64]!r}; {_fields_near(name)}")
    if not form.files["model"]:
        raise InvalidUpload("the field 'model' is missing: send the model's file in it")


def _fields_near(name: str) -> str:
    known = (*FILE_FIELDS, *TEXT_FIELDS)
    near = difflib.get_close_matches(name[:64], known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(known)}"


async def _store_file(
    storage: Storage, files: list[StoredFile], name: str, data: AsyncIterator[bytes]
) -> None:
    path = f"{UPLOADS}/{uuid.uuid4().hex}"
    hashed = HashingStream(coalesce(data))
    files.append(StoredFile(name=name, path=path, size_bytes=0))  # so that it is cleaned up
    await storage.write_stream(path, hashed.pieces())
    await asyncio.to_thread(store_digests, storage, hashed.digest)
    files[-1] = StoredFile(
        name=name, path=path, size_bytes=hashed.size_bytes, sha256=hashed.hexdigest()
    )


async def _text(name: str, data: AsyncIterator[bytes], limit: int) -> Content:
    text = await collect(data, limit)
    if text is None:
        raise TooLarge(f"the field {name!r} has over {limit:,} bytes, the most allowed")
    return text


async def _data(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    """The bytes of the part that has begun."""
    async for kind, data in events:
        if kind == "end":
            return
        yield data


async def _events(request: Request, limits: Limits) -> AsyncIterator[Event]:
    """What the parser finds, as the body comes in; reading on waits until it was used."""
    check_encoding(request.headers)
    boundary = _boundary(request)
    preamble, parser = _Preamble(boundary), _Parser(boundary)
    limit = limits.upload_bytes
    announced = int(request.headers.get("content-length", 0))
    if announced > limit:
        raise TooLarge(f"the upload announces {announced:,} bytes; {limit:,} are allowed")
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise TooLarge(f"the upload has over {limit:,} bytes, the most allowed")
        for event in parser.feed(preamble.skipped(chunk)):
            yield event
    if received and not preamble.is_over:
        raise InvalidUpload(
            "the body is not a sound multipart form: no line of it is the boundary that "
            f"Content-Type names, {boundary.decode(errors='replace')!r} behind two hyphens"
        )
    if not parser.complete:
        raise InvalidUpload("the form broke off before its closing boundary; send it again")


class _Preamble:
    """What may stand in front of a form's first boundary, and means nothing.

    Source: RFC 2046, section 5.1.1.
    """

    def __init__(self, boundary: bytes) -> None:
        self._boundary = re.compile(rb"\r\n(?=--%b(?:\r\n|--))" % re.escape(boundary))
        self._longest = len(boundary) + 6
        self._tail = b"\r\n"
        """The end of what came in, of which the boundary may be the continuation."""
        self.is_over = False

    def skipped(self, chunk: bytes) -> bytes:
        """The next bytes of the body, without those of the preamble."""
        if self.is_over:
            return chunk
        seen = self._tail + chunk
        found = self._boundary.search(seen)
        if found is None:
            self._tail = seen[-self._longest + 1 :]
            return b""
        self.is_over = True
        return seen[found.end() :]


class _Parser:
    """python-multipart's callbacks as a list of events."""

    def __init__(self, boundary: bytes) -> None:
        self._found: list[Event] = []
        self._headers = bytearray()
        self.complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_header_field": lambda data, a, b: self._header(data[a:b]),
                "on_header_value": lambda data, a, b: self._header(data[a:b]),
                "on_header_end": lambda: self._header(b"\n"),
                "on_headers_finished": lambda: self._found.append(("begin", bytes(self._headers))),
                "on_part_data": lambda data, a, b: self._found.append(("data", data[a:b])),
                "on_part_end": lambda: self._found.append(("end", b"")),
                "on_end": self._end,
            },
            max_header_size=2 * HEADER_BYTES,  # so that it is our limit that is met and named
        )

    def feed(self, chunk: bytes) -> Iterator[Event]:
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise InvalidUpload(f"the body is not a sound multipart form: {error}") from error
        yield from self._found
        self._found.clear()

    def _header(self, piece: bytes) -> None:
        self._headers += piece
        if len(self._headers) > HEADER_BYTES:
            raise TooLarge(f"a part's headers have over {HEADER_BYTES:,} bytes")

    def _end(self) -> None:
        self.complete = True


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > BOUNDARY_BYTES:
        got = request.headers.get("content-type", "no content type")[:100]
        raise InvalidUpload(
            f"the body must be multipart/form-data with a boundary of at most {BOUNDARY_BYTES} "
            f"characters; got {got}"
        )
    return boundary


def _disposition(headers: bytes) -> tuple[str, str | None]:
    """Field name and file name of a part, from its header block."""
    for line in headers.splitlines():
        if line.lower().startswith(b"content-disposition"):
            _, options = parse_options_header(line[len(b"content-disposition") :].lstrip(b": "))
            name, file_name = options.get(b"name"), options.get(b"filename")
            if name is not None:
                shown = None if file_name is None else _plain(_unescaped(file_name))
                return _unescaped(name), shown
    raise InvalidUpload("a part of the form has no name; each needs name=... in its headers")


def _unescaped(name: bytes) -> str:
    """A name as it was before it was written into a form.

    Source: WHATWG HTML, "multipart/form-data encoding algorithm", which escapes these alone.
    """
    for escape, character in ((b"%22", b'"'), (b"%0D", b"\r"), (b"%0A", b"\n")):
        name = name.replace(escape, character)
    return name.decode(errors="replace")


def _plain(name: str) -> str:
    """A file name fit to be shown; it is never used as a path."""
    text = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(character for character in text if character.isprintable())[:255] or "model"
