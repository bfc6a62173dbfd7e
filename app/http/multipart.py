"""Streamed multipart forms: files are hashed and written directly to the object store."""

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
from palettery.app.storage.spooled_content import Content, collect, pieces
from palettery.app.storage.streams import HashingStream, coalesce
from palettery.app.storage.verified_reader import store_digests
from palettery.schemas.checkpoint import StoredFile
from palettery.schemas.job_options import JobOptions

FILE_FIELDS = ("model", "sensitivities")
TEXT_FIELDS = ("config", *JobOptions.model_fields)
UPLOADS = "uploads"
"""Folder of uploaded files; files that a job uses stay there."""
TEXT_BYTES = 64 << 10
"""Maximum size of each text field except `config`."""
HEADER_BYTES = 16 << 10
"""Maximum size of one part's headers."""
BOUNDARY_BYTES = 70
"""Maximum size of the boundary. Source: RFC 2046, section 5.1.1."""

Event: TypeAlias = tuple[str, bytes]
"""Event of the parser: (`begin`, header block), (`data`, bytes) or (`end`, b"")."""


@dataclass
class Form:
    """A parsed form, whose files are in the object store."""

    files: dict[str, list[StoredFile]] = field(
        default_factory=lambda: {name: [] for name in FILE_FIELDS}
    )
    """Field -> its files in the order of the form."""
    config: Content | None = None
    """The field `config`, possibly of several megabytes."""
    texts: dict[str, bytes] = field(default_factory=dict)
    """The other text fields."""

    def paths(self) -> list[str]:
        """Return the paths of all files in the object store."""
        return [file.path for files in self.files.values() for file in files]


async def read_form(request: Request, storage: Storage, limits: Limits) -> Form:
    """Return a request's form, with its files in the store; on an error they are deleted again.

    Raises:
        UnsupportedContentEncoding: the body is compressed.
        InvalidUpload: the form is malformed or incomplete; a field is missing, repeated or unknown.
        TooLarge: the form is over a limit; names the limit.
    """
    form = Form()
    try:
        await _read_fields(request, storage, limits, form)
    except ClientDisconnect as error:
        await asyncio.to_thread(storage.delete, *form.paths())
        raise InvalidUpload("the connection was closed before the form was complete") from error
    except BaseException:
        await asyncio.to_thread(storage.delete, *form.paths())
        raise
    return form


async def _read_fields(request: Request, storage: Storage, limits: Limits, form: Form) -> None:
    events = _events(request, limits)
    async for kind, data in events:
        if kind != "begin":
            continue
        name, file_name = _parse_names(data)
        if name in FILE_FIELDS:
            if len(form.paths()) == limits.upload_files:
                raise TooLarge(f"over {limits.upload_files:,} files; send fewer, larger shards")
            await _store_file(storage, form.files[name], file_name or name, _part_data(events))
        elif name in TEXT_FIELDS:
            if name in form.texts or (name == "config" and form.config is not None):
                raise InvalidUpload(f"the field {name!r} is repeated; send it once")
            if name == "config":
                form.config = await _read_text(name, _part_data(events), limits.config_bytes)
            else:
                form.texts[name] = b"".join(
                    pieces(await _read_text(name, _part_data(events), TEXT_BYTES))
                )
        else:
            raise InvalidUpload(f"unknown field {name[:64]!r}; {_suggest_field(name)}")
    if not form.files["model"]:
        raise InvalidUpload("the field 'model' is missing: send the model's file in it")


def _suggest_field(name: str) -> str:
    known = (*FILE_FIELDS, *TEXT_FIELDS)
    similar = difflib.get_close_matches(name[:64], known, n=1)
    return f"did you mean {similar[0]!r}?" if similar else f"the fields are {', '.join(known)}"


async def _store_file(
    storage: Storage, files: list[StoredFile], name: str, data: AsyncIterator[bytes]
) -> None:
    path = f"{UPLOADS}/{uuid.uuid4().hex}"
    stream = HashingStream(coalesce(data))
    files.append(
        StoredFile(name=name, path=path, size_bytes=0)
    )  # added first, so that an error deletes it
    await storage.write_stream(path, stream.pieces())
    await asyncio.to_thread(store_digests, storage, stream.digest)
    files[-1] = StoredFile(
        name=name, path=path, size_bytes=stream.size_bytes, sha256=stream.hexdigest()
    )


async def _read_text(name: str, data: AsyncIterator[bytes], limit: int) -> Content:
    text = await collect(data, limit)
    if text is None:
        raise TooLarge(f"the field {name!r} has over {limit:,} bytes, the limit")
    return text


async def _part_data(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    """Yield the bytes of the current part."""
    async for kind, data in events:
        if kind == "end":
            return
        yield data


async def _events(request: Request, limits: Limits) -> AsyncIterator[Event]:
    """Yield the parser's events while the body is received, with backpressure."""
    check_encoding(request.headers)
    boundary = _boundary(request)
    preamble, parser = _Preamble(boundary), _Parser(boundary)
    limit = limits.upload_bytes
    declared_bytes = int(request.headers.get("content-length", 0))
    if declared_bytes > limit:
        raise TooLarge(f"the upload announces {declared_bytes:,} bytes; the limit is {limit:,}")
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise TooLarge(f"the upload has over {limit:,} bytes, the limit")
        for event in parser.feed(preamble.skip(chunk)):
            yield event
    if received and not preamble.is_over:
        raise InvalidUpload(
            "the body is not a valid multipart form: no line of it is the boundary of "
            f"Content-Type, {boundary.decode(errors='replace')!r} after two hyphens"
        )
    if not parser.is_complete:
        raise InvalidUpload("the form ends before its closing boundary; send it again")


class _Preamble:
    """The preamble of a form: bytes before the first boundary, which are ignored.

    Source: RFC 2046, section 5.1.1.
    """

    def __init__(self, boundary: bytes) -> None:
        self._boundary = re.compile(rb"\r\n(?=--%b(?:\r\n|--))" % re.escape(boundary))
        self._longest = len(boundary) + 6
        self._tail = b"\r\n"
        """End of the received bytes, which may be the start of the boundary."""
        self.is_over = False

    def skip(self, chunk: bytes) -> bytes:
        """Return the next bytes of the body without the preamble."""
        if self.is_over:
            return chunk
        received = self._tail + chunk
        boundary = self._boundary.search(received)
        if boundary is None:
            self._tail = received[-self._longest + 1 :]
            return b""
        self.is_over = True
        return received[boundary.end() :]


class _Parser:
    """Parser that collects the callbacks of python-multipart as events."""

    def __init__(self, boundary: bytes) -> None:
        self._events: list[Event] = []
        self._headers = bytearray()
        self.is_complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_header_field": lambda data, a, b: self._header(data[a:b]),
                "on_header_value": lambda data, a, b: self._header(data[a:b]),
                "on_header_end": lambda: self._header(b"\n"),
                "on_headers_finished": lambda: self._events.append(("begin", bytes(self._headers))),
                "on_part_data": lambda data, a, b: self._events.append(("data", data[a:b])),
                "on_part_end": lambda: self._events.append(("end", b"")),
                "on_end": self._end,
            },
            max_header_size=2 * HEADER_BYTES,  # so that HEADER_BYTES applies, with its own message
        )

    def feed(self, chunk: bytes) -> Iterator[Event]:
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise InvalidUpload(f"the body is not a valid multipart form: {error}") from error
        yield from self._events
        self._events.clear()

    def _header(self, piece: bytes) -> None:
        self._headers += piece
        if len(self._headers) > HEADER_BYTES:
            raise TooLarge(f"the headers of a part have over {HEADER_BYTES:,} bytes")

    def _end(self) -> None:
        self.is_complete = True


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > BOUNDARY_BYTES:
        content_type = request.headers.get("content-type", "no content type")[:100]
        raise InvalidUpload(
            f"the body must be multipart/form-data with a boundary of at most {BOUNDARY_BYTES} "
            f"characters; got {content_type}"
        )
    return boundary


def _parse_names(headers: bytes) -> tuple[str, str | None]:
    """Return the field name and the file name in a part's headers."""
    for line in headers.splitlines():
        if line.lower().startswith(b"content-disposition"):
            _, options = parse_options_header(line[len(b"content-disposition") :].lstrip(b": "))
            name, file_name = options.get(b"name"), options.get(b"filename")
            if name is not None:
                shown = None if file_name is None else _printable_name(_unescape(file_name))
                return _unescape(name), shown
    raise InvalidUpload(
        "a part of the form has no name; each part needs name=... in Content-Disposition"
    )


def _unescape(name: bytes) -> str:
    """Return a name without the escapes of multipart forms.

    Source: WHATWG HTML, "multipart/form-data encoding algorithm", which has only these escapes.
    """
    for escape, character in ((b"%22", b'"'), (b"%0D", b"\r"), (b"%0A", b"\n")):
        name = name.replace(escape, character)
    return name.decode(errors="replace")


def _printable_name(name: str) -> str:
    """Return a file name for display; it is never used as a path."""
    text = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(character for character in text if character.isprintable())[:255] or "model"
