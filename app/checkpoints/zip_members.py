"""Members of a zip archive as byte ranges; nothing is decompressed."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from palettery.app.checkpoints.quoting import quote_text
from palettery.app.checkpoints.ranged_reads import FileRange, read_ranges
from palettery.app.checkpoints.zip_directory import (
    FETCH_AGAIN,
    SAVE_AGAIN,
    ZIP64_MARKER,
    DirectoryEntry,
    check_uncompressed,
    read_directory,
)
from palettery.app.errors import InvalidModel, TooLarge
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_SIZES_FOLLOW = 1 << 3
"""Flag of a member whose sizes follow its data."""


@dataclass(frozen=True)
class ZipMember:
    """An uncompressed member, as a byte range of the archive."""

    name: str
    offset: int
    """Offset of its data in the archive."""
    size_bytes: int


def read_members(
    storage: Storage, path: str, limits: Limits, *, name: str
) -> Mapping[str, ZipMember]:
    """Return the members of a zip archive by name, in the order of their offsets, without folders.

    `name` names the file in messages.

    Raises:
        InvalidModel: truncated, inconsistent, or with bytes or names that no writer produces.
        UnsupportedFormat: compressed, encrypted or split into several files.
        TooLarge: the directory, or the number of members, exceeds its limit.
    """
    entries, start = read_directory(storage, path, limits, name)
    _check_order(entries, start, name)
    headers = [
        FileRange(entry.header_offset, _LOCAL_HEADER.size + len(entry.raw_name))
        for entry in entries
    ]
    contents = read_ranges(storage, path, headers)
    members = [_member(entry, local, name) for entry, local in zip(entries, contents, strict=True)]
    bounds = [*(entry.header_offset for entry in entries[1:]), start]
    for member, bound in zip(members, bounds, strict=True):
        if member.offset + member.size_bytes > bound:
            raise InvalidModel(
                f"{name}: the member {quote_text(member.name)} overlaps what follows it; "
                f"{FETCH_AGAIN}"
            )
    return {member.name: member for member in members if not member.name.endswith("/")}


def read_member(
    storage: Storage, path: str, member: ZipMember, limits: Limits, *, name: str
) -> bytes:
    """Return the bytes of a member that is to be parsed.

    Raises:
        TooLarge: over the limit of headers.
    """
    if member.size_bytes > limits.header_bytes:
        raise TooLarge(
            f"{name}: the member {quote_text(member.name)} has {member.size_bytes:,} bytes; "
            f"{limits.allowed('header_bytes')}"
        )
    return bytes(storage.read(path, member.offset, member.size_bytes))


def strip_root_folder(members: Mapping[str, ZipMember], name: str) -> Mapping[str, ZipMember]:
    """Return the members by their names without the folder that contains all of them.

    Raises:
        InvalidModel: there is no common folder.
    """
    roots = {key.partition("/")[0] for key in members}
    if len(roots) != 1 or any("/" not in key for key in members):
        raise InvalidModel(
            f"{name}: its {len(members):,} members do not lie in one common folder, unlike those "
            f"of every PyTorch archive; {SAVE_AGAIN}"
        )
    return {key.partition("/")[2]: member for key, member in members.items()}


def _check_order(entries: Sequence[DirectoryEntry], end: int, name: str) -> None:
    """Check that local headers and data do not overlap and lie in the file, by the directory."""
    if not entries:
        raise InvalidModel(f"{name} is a zip archive without members; {SAVE_AGAIN}")
    if entries[0].header_offset:
        raise InvalidModel(
            f"{name} begins with {entries[0].header_offset:,} bytes that belong to no member; "
            f"{FETCH_AGAIN}"
        )
    bounds = [*(entry.header_offset for entry in entries[1:]), end]
    for entry, bound in zip(entries, bounds, strict=True):
        if (
            entry.header_offset + _LOCAL_HEADER.size + len(entry.raw_name) + entry.size_bytes
            > bound
        ):
            raise InvalidModel(
                f"{name}: the member {quote_text(entry.name)} overlaps another, or exceeds the "
                f"file; {FETCH_AGAIN}"
            )


def _member(entry: DirectoryEntry, local: bytes, name: str) -> ZipMember:
    """Return a member from its local header, which must agree with the directory."""
    magic, _, flags, method, _, _, _, packed, size, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(
        local[: _LOCAL_HEADER.size]
    )
    same_name = local[_LOCAL_HEADER.size : _LOCAL_HEADER.size + name_bytes] == entry.raw_name
    same_sizes = flags & _SIZES_FOLLOW or all(
        value in (entry.size_bytes, ZIP64_MARKER) for value in (packed, size)
    )
    if (
        magic != b"PK\x03\x04"
        or not same_name
        or not same_sizes
        or name_bytes != len(entry.raw_name)
    ):
        raise InvalidModel(
            f"{name}: the header of the member {quote_text(entry.name)} contradicts the directory; "
            f"{FETCH_AGAIN}"
        )
    check_uncompressed(flags, method, entry.name, name)
    return ZipMember(
        entry.name,
        entry.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes,
        entry.size_bytes,
    )
