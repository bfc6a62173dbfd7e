"""Strict reader of the central directory at the end of a zip archive.

The directory must end the file, without a comment, so that every reader sees the same members.

Source: APPNOTE.TXT 6.3.10 (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from palettery.app.checkpoints.quoting import quote_text
from palettery.app.errors import InvalidModel, TooLarge, UnsupportedFormat
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage

SPARE_MEMBERS = 64
"""Members that an archive may have in addition to one per tensor."""
ZIP64_MARKER = 0xFFFFFFFF
"""Placeholder of a number that is too large for its field; a zip64 field has its value."""
ZIP64_SHORT_MARKER = 0xFFFF
"""The same in fields of 2 bytes."""
SAVE_AGAIN = "save the model again with torch.save or torch.export.save, without changes"
FETCH_AGAIN = "fetch or write the file again"
JOIN_SHARDS = (
    "join the shards with `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER "
    "model.pt` and send its output"
)
"""Advice for a checkpoint of torch.distributed, whose files hold an archive for each tensor."""

_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4s4x2H8x2I4H6xI")
_ENCRYPTED, _PATCH, _STRONG, _MASKED = 1, 1 << 5, 1 << 6, 1 << 13
"""Bits of the general purpose flags: compressed patched data, and three kinds of encryption."""


@dataclass(frozen=True)
class DirectoryEntry:
    """The entry of a member."""

    name: str
    raw_name: bytes
    size_bytes: int
    header_offset: int
    """Offset of its local header."""


def read_directory(
    storage: Storage, path: str, limits: Limits, name: str
) -> tuple[list[DirectoryEntry], int]:
    """Return the entries of a zip archive, sorted by offset, and the offset of the directory.

    Raises:
        InvalidModel: truncated or inconsistent.
        UnsupportedFormat: compressed, encrypted or split into several files.
        TooLarge: over a limit.
    """
    start, size, count = _find_directory(storage, path, limits, name)
    directory = bytes(storage.read(path, start, size))
    return sorted(_entries(directory, count, name), key=lambda entry: entry.header_offset), start


def check_uncompressed(flags: int, method: int, member: str, name: str) -> None:
    """Check that a member is neither compressed nor encrypted."""
    if flags & (_ENCRYPTED | _STRONG | _MASKED):
        raise UnsupportedFormat(
            f"{name}: the member {quote_text(member)} is encrypted; {SAVE_AGAIN}"
        )
    if method or flags & _PATCH:
        raise UnsupportedFormat(
            f"{name}: the member {quote_text(member)} is compressed (method {method}), as in "
            f"TorchScript modules, but archives are read in place, by byte range; {SAVE_AGAIN}"
        )


def _find_directory(storage: Storage, path: str, limits: Limits, name: str) -> tuple[int, int, int]:
    """Return the offset, the size and the number of entries of the directory."""
    file_bytes = storage.size_bytes(path)
    tail_bytes = min(file_bytes, _END64.size + _LOCATOR64.size + _END.size)
    tail = bytes(storage.read(path, file_bytes - tail_bytes, tail_bytes))
    if tail_bytes < _END.size or tail[-_END.size :][:4] != b"PK\x05\x06" or tail[-2:] != b"\0\0":
        raise InvalidModel(
            f"{name} begins as a zip archive but does not end as one: it is truncated, or bytes "
            f"were appended; {FETCH_AGAIN}"
        )
    end = file_bytes - _END.size
    _, disk, first_disk, count_on_disk, count, size, start, _ = _END.unpack(tail[-_END.size :])
    locator = tail[: -_END.size][-_LOCATOR64.size :]
    if locator[:4] == b"PK\x06\x07":
        end -= _LOCATOR64.size + _END64.size
        wide_numbers = _read_end64(locator, tail[: _END64.size], end, name)
        for narrow, value, sentinel in zip(
            (disk, first_disk, count_on_disk, count, size, start),
            wide_numbers,
            (*[ZIP64_SHORT_MARKER] * 4, ZIP64_MARKER, ZIP64_MARKER),
            strict=True,
        ):
            if narrow not in (sentinel, value):
                raise InvalidModel(f"{name}: its two directory ends disagree; {FETCH_AGAIN}")
        disk, first_disk, count_on_disk, count, size, start = wide_numbers
    if disk or first_disk or count_on_disk != count:
        raise UnsupportedFormat(f"{name} is one part of a split zip archive; {SAVE_AGAIN}")
    _check_limits(size, count, limits, name)
    if start + size < end and size >= count * _ENTRY.size:
        raise InvalidModel(_describe_prefix(name, end - start - size))
    if start + size != end or size < count * _ENTRY.size:
        raise InvalidModel(
            f"{name}: its directory is not at its recorded offset, so bytes are missing or were "
            f"inserted; {FETCH_AGAIN}"
        )
    return start, size, count


def _describe_prefix(name: str, size_bytes: int) -> str:
    return (
        f"{name} has {size_bytes:,} bytes before its zip archive; if it is a file of "
        f"torch.distributed.checkpoint (.distcp), {JOIN_SHARDS}; else {FETCH_AGAIN}"
    )


def _check_limits(size: int, count: int, limits: Limits, name: str) -> None:
    if count > limits.tensors + SPARE_MEMBERS:
        raise TooLarge(
            f"{name} holds {count:,} members; {SPARE_MEMBERS} are allowed, and one for each "
            f"tensor, of which {limits.allowed('tensors')}"
        )
    if size > limits.header_bytes:
        raise TooLarge(
            f"{name} announces a directory of {size:,} bytes; {limits.allowed('header_bytes')}"
        )


def _read_end64(locator: bytes, record: bytes, at: int, name: str) -> tuple[int, ...]:
    """Return the numbers of the zip64 end record, in the order of the plain end record."""
    _, locator_disk, offset, disks = _LOCATOR64.unpack(locator)
    if locator_disk or disks > 1:
        raise UnsupportedFormat(f"{name} is one part of a split zip archive; {SAVE_AGAIN}")
    is_valid = len(record) == _END64.size and record[:4] == b"PK\x06\x06"
    if offset < at and is_valid:
        raise InvalidModel(_describe_prefix(name, at - offset))
    if offset != at or not is_valid:
        raise InvalidModel(
            f"{name}: its zip64 directory end is not at its recorded offset; {FETCH_AGAIN}"
        )
    _, length, _, _, *numbers = _END64.unpack(record)
    if length != _END64.size - 12:
        raise InvalidModel(f"{name}: its zip64 directory end has a wrong length; {FETCH_AGAIN}")
    return tuple(numbers)


def _entries(directory: bytes, count: int, name: str) -> Iterator[DirectoryEntry]:
    """Yield the entries, which must fill the directory; each name must occur once."""
    at, seen = 0, set[str]()
    for _ in range(count):
        fields = directory[at : at + _ENTRY.size]
        if len(fields) < _ENTRY.size or fields[:4] != b"PK\x01\x02":
            raise InvalidModel(f"{name}: its zip directory is damaged; {FETCH_AGAIN}")
        _, flags, method, packed, size, name_bytes, extra_bytes, comment_bytes, disk, header = (
            _ENTRY.unpack(fields)
        )
        raw_name = directory[at + _ENTRY.size : at + _ENTRY.size + name_bytes]
        extra = directory[
            at + _ENTRY.size + name_bytes : at + _ENTRY.size + name_bytes + extra_bytes
        ]
        at += _ENTRY.size + name_bytes + extra_bytes + comment_bytes
        if at > len(directory):
            raise InvalidModel(f"{name}: its zip directory is cut short; {FETCH_AGAIN}")
        member = _check_name(raw_name, name)
        if member in seen:
            raise InvalidModel(f"{name} holds the member {quote_text(member)} twice; {SAVE_AGAIN}")
        seen.add(member)
        check_uncompressed(flags, method, member, name)
        size, packed, header, disk = _resolve_zip64(
            (size, packed, header, disk), extra, member, name
        )
        if disk:
            raise UnsupportedFormat(f"{name} is one part of a split zip archive; {SAVE_AGAIN}")
        if size != packed or (size and member.endswith("/")):
            raise InvalidModel(
                f"{name}: the sizes of the member {quote_text(member)} contradict each other; "
                f"{FETCH_AGAIN}"
            )
        yield DirectoryEntry(member, raw_name, size, header)
    if at != len(directory):
        raise InvalidModel(f"{name}: its zip directory is longer than its entries; {FETCH_AGAIN}")


def _check_name(raw_name: bytes, name: str) -> str:
    try:
        member = raw_name.decode()
    except UnicodeDecodeError as error:
        raise InvalidModel(f"{name}: a member's name is not UTF-8; {SAVE_AGAIN}") from error
    parts = member.removesuffix("/").split("/")
    is_unsafe = any(part in ("", ".", "..") for part in parts)
    if is_unsafe or "\\" in member or not member.isprintable():
        raise InvalidModel(
            f"{name} holds a member named {quote_text(member)}; names must be plain paths below "
            f"the archive's root: {SAVE_AGAIN}"
        )
    return member


def _resolve_zip64(
    numbers: tuple[int, int, int, int], extra: bytes, member: str, name: str
) -> tuple[int, int, int, int]:
    """Return size, packed size, header offset and disk; zip64 values replace placeholders."""
    fields: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if at + 4 + length > len(extra) or (kind == 1 and kind in fields):
            raise InvalidModel(
                f"{name}: the fields of {quote_text(member)} are damaged; {FETCH_AGAIN}"
            )
        fields[kind] = extra[at + 4 : at + 4 + length]
        at += 4 + length
    wide_numbers, at, values = fields.get(1, b""), 0, list[int]()
    for number, width in zip(numbers, (8, 8, 8, 4), strict=True):
        if number != (ZIP64_MARKER if width == 8 else ZIP64_SHORT_MARKER):
            values.append(number)
            continue
        if at + width > len(wide_numbers):
            raise InvalidModel(f"{name}: {quote_text(member)} lacks its zip64 sizes; {FETCH_AGAIN}")
        values.append(int.from_bytes(wide_numbers[at : at + width], "little"))
        at += width
    return values[0], values[1], values[2], values[3]
