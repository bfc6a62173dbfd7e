"""Zip archives of PyTorch, and forged ones."""

import io
import zipfile
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palettery.app.checkpoints.zip_directory import SPARE_MEMBERS
from palettery.app.checkpoints.zip_members import read_member, read_members, strip_root_folder
from palettery.app.errors import BadInput, InvalidModel, TooLarge, UnsupportedFormat
from palettery.app.settings import Limits
from palettery.app.storage.folder import Folder
from palettery.app.storage.open import open_storage
from tests.forged import sparse, zipped


@dataclass(frozen=True)
class CountingFolder(Folder):
    """A folder that records the sizes of its reads."""

    read_bytes: list = field(default_factory=list)

    def read(self, path, offset=0, size_bytes=None):
        data = super().read(path, offset, size_bytes)
        self.read_bytes.append(len(data))
        return data


@pytest.fixture
def store(tmp_path):
    plain = open_storage(tmp_path.as_uri())
    return CountingFolder(plain.url, plain.root)


@pytest.fixture
def members_of(tmp_path, store):
    def read(content, **limits):
        (tmp_path / "file").write_bytes(content)
        return read_members(store, "file", Limits(**limits), name="file")

    return read


def tampered(content, **places):
    """Return a zip with other bytes; `local` and `central` are the first headers of their kind."""
    bases = {"local": 0, "central": content.index(b"PK\1\2"), "end": content.rindex(b"PK\5\6")}
    changed = bytearray(content)
    for place, new in places.items():
        base, at = place.rsplit("_", 1)
        start = bases[base] + int(at)
        changed[start : start + len(new)] = new
    return bytes(changed)


def test_ranges_are_those_of_the_zipfile_library(members_of):
    content = zipped([("m/", b""), ("m/a", b"one"), ("m/empty", b""), ("m/ü/b", bytes(70_000))])
    members = members_of(content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert list(members) == [name for name in archive.namelist() if name != "m/"]
        for name, member in members.items():
            data = content[member.offset : member.offset + member.size_bytes]
            assert data == archive.read(name)
    assert list(strip_root_folder(members, "file")) == ["a", "empty", "ü/b"]


def test_an_archive_of_torch_is_read(members_of, store):
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(5)}, buffer)
    members = strip_root_folder(members_of(buffer.getvalue()), "file")
    data = read_member(store, "file", members["data/0"], Limits(header_bytes=40), name="file")
    assert data == torch.arange(5).numpy().tobytes()
    with pytest.raises(TooLarge, match="39 are allowed"):
        read_member(store, "file", members["data/0"], Limits(header_bytes=39), name="file")


def test_zip64_fields_are_read_where_python_writes_them(members_of):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        with archive.open("m/a", "w", force_zip64=True) as member:
            member.write(b"wide")
        archive.writestr("m/b", b"narrow")
    members = members_of(buffer.getvalue())
    at = members["m/a"].offset
    assert buffer.getvalue()[at : at + 4] == b"wide"


def test_ten_gigabytes_are_indexed_from_headers_alone(tmp_path, store):
    sizes = [10 << 20] * 1_000 + [5_000] * 200
    sparse(tmp_path / "big", sizes)
    assert (tmp_path / "big").stat().st_size > 10_000_000_000
    members = read_members(store, "big", Limits(), name="big")
    assert [member.size_bytes for member in members.values()] == sizes
    assert members["m/data/1199"].offset > 1 << 32
    assert len(store.read_bytes) < 1_010
    assert sum(store.read_bytes) < 2 << 20


def test_a_single_member_of_twenty_gigabytes_is_indexed(tmp_path, store):
    sparse(tmp_path / "big", [20 << 30])
    assert read_members(store, "big", Limits(), name="big")["m/data/0"].size_bytes == 20 << 30


@pytest.mark.heavy
def test_as_many_members_as_allowed_are_read_and_more_refused(members_of, tmp_path, store):
    sparse(tmp_path / "many", [0] * 100_000)
    limits = Limits(tensors=100_000 - SPARE_MEMBERS)
    assert len(read_members(store, "many", limits, name="many")) == 100_000
    assert len(store.read_bytes) < 20
    sparse(tmp_path / "more", [0] * 100_001)
    with pytest.raises(TooLarge, match=r"100,001 members; 64 are allowed.*99,936 are allowed"):
        read_members(store, "more", limits, name="more")
    with pytest.raises(TooLarge, match=r"80 members; 64.*10 are allowed"):
        members_of(zipped([(f"m/{n}", b"") for n in range(80)]), tensors=10)
    with pytest.raises(TooLarge, match="directory"):
        members_of(zipped(), header_bytes=50)


NAMES = {
    "above": "m/../../x",
    "here": "m/./x",
    "absolute": "/etc/passwd",
    "empty part": "m//x",
    "backslash": "m/..\\x",
    "line break": "m/a\nb",
    "bell": "m/\a",
    "right-to-left": "m/\u202ex",
}


@pytest.mark.parametrize("kind", NAMES)
def test_odd_names_are_refused(members_of, kind):
    with pytest.raises(InvalidModel, match="plain paths") as caught:
        members_of(zipped([("m/good", b"1"), (NAMES[kind], b"2")]))
    assert caught.value.detail.isprintable()


def u16(number):
    return number.to_bytes(2, "little")


def u32(number):
    return number.to_bytes(4, "little")


PLAIN = zipped()
SECOND = PLAIN.index(b"PK\3\4", 4)
REFUSED = {
    "deflated": (zipped(compression=zipfile.ZIP_DEFLATED), UnsupportedFormat, "compressed"),
    "lzma": (zipped(compression=zipfile.ZIP_LZMA), UnsupportedFormat, "compressed"),
    "deflated by its header": (tampered(PLAIN, local_8=u16(8)), UnsupportedFormat, "compressed"),
    "encrypted": (tampered(PLAIN, central_8=u16(1)), UnsupportedFormat, "encrypted"),
    "encrypted by its header": (tampered(PLAIN, local_6=u16(1)), UnsupportedFormat, "encrypted"),
    "masked": (tampered(PLAIN, central_8=u16(1 << 13)), UnsupportedFormat, "encrypted"),
    "split": (tampered(PLAIN, end_4=u16(1)), UnsupportedFormat, "split"),
    "a member on another disk": (tampered(PLAIN, central_34=u16(2)), UnsupportedFormat, "split"),
    "counts that differ": (tampered(PLAIN, end_8=u16(1)), UnsupportedFormat, "split"),
    "a name twice": (zipped([("m/a", b"1"), ("m/a", b"2")]), InvalidModel, "'m/a' twice"),
    "another local name": (tampered(PLAIN, local_32=b"z"), InvalidModel, "contradicts"),
    "a longer local name": (tampered(PLAIN, local_26=u16(9)), InvalidModel, "contradicts"),
    "another local size": (tampered(PLAIN, local_22=u32(2)), InvalidModel, "contradicts"),
    "no local header": (tampered(PLAIN, local_0=b"PK\3\5"), InvalidModel, "contradicts"),
    "data behind the next": (tampered(PLAIN, local_28=u16(9)), InvalidModel, "overlaps"),
    "two sizes": (tampered(PLAIN, central_20=u32(2)), InvalidModel, "contradict"),
    "a huge size": (tampered(PLAIN, central_20=u32(1 << 31) * 2), InvalidModel, "overlaps"),
    "overlap": (tampered(PLAIN, central_20=u32(40) * 2), InvalidModel, "overlaps"),
    "the same bytes twice": (tampered(PLAIN, central_42=u32(SECOND)), InvalidModel, "belong to no"),
    "an offset outside": (tampered(PLAIN, central_42=u32(1 << 30)), InvalidModel, "belong to no"),
    "zip64 sizes missing": (tampered(PLAIN, central_20=b"\xff" * 4), InvalidModel, "zip64"),
    "no entry": (tampered(PLAIN, central_0=b"PK\1\3"), InvalidModel, "damaged"),
    "an entry without end": (tampered(PLAIN, central_28=u16(9_999)), InvalidModel, "cut short"),
    "too few counted": (tampered(PLAIN, end_8=u16(1) * 2), InvalidModel, "longer than its entries"),
    "too many counted": (tampered(PLAIN, end_8=u16(60_000) * 2), InvalidModel, "recorded offset"),
    "garbage before": (b"PK\3\4" + PLAIN, InvalidModel, "before its zip archive"),
    "garbage behind": (PLAIN + b"x", InvalidModel, "appended"),
    "a comment": (tampered(PLAIN, end_20=u16(1)) + b"x", InvalidModel, "appended"),
    "two archives": (PLAIN + PLAIN, InvalidModel, "before its zip archive"),
    "nothing in it": (zipped(()), InvalidModel, "without members"),
    "a name that is no UTF-8": (PLAIN.replace(b"m/a", b"m\xff\xfe"), InvalidModel, "UTF-8"),
    "a folder with data": (PLAIN.replace(b"m/a", b"mm/"), InvalidModel, "contradict"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_archives_are_refused(members_of, kind):
    content, error, message = REFUSED[kind]
    with pytest.raises(error, match=message):
        members_of(content)


def test_garbage_before_a_zip_whose_offsets_know_of_it_is_refused(members_of):
    buffer = io.BytesIO(b"PK\3\4 something else")
    buffer.seek(0, 2)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("m/a", b"1")
    with pytest.raises(InvalidModel, match="belong to no member"):
        members_of(buffer.getvalue())


@pytest.mark.parametrize("sizes", [[3, 3], [3, 0]])
def test_truncation_at_every_byte_is_reported(tmp_path, store, sizes):
    sparse(tmp_path / "whole", sizes)
    for content in ((tmp_path / "whole").read_bytes(), PLAIN):
        for size in range(len(content)):
            (tmp_path / "cut").write_bytes(content[:size])
            with pytest.raises(InvalidModel):
                read_members(store, "cut", Limits(), name="cut")


def test_zip64_ends_must_agree_with_the_plain_one(tmp_path, members_of):
    sparse(tmp_path / "whole", [3])
    content = (tmp_path / "whole").read_bytes()
    assert members_of(content)
    with pytest.raises(InvalidModel, match="disagree"):
        members_of(tampered(content, end_10=u16(2)))
    record, locator = content.index(b"PK\6\6"), content.index(b"PK\6\7")
    for at, new, message in (
        (record + 4, b"\xff", "wrong length"),
        (record + 32, b"\xff" * 8, "split"),
        (record + 24, b"\xff" * 16, "members"),
        (record + 40, b"\xff" * 8, "directory"),
        (record + 48, b"\xff" * 8, "recorded offset"),
        (locator + 8, b"\xff" * 8, "recorded offset"),
        (locator + 16, b"\2", "split"),
    ):
        with pytest.raises(BadInput, match=message):
            members_of(content[:at] + new + content[at + len(new) :])


def test_members_must_share_one_folder(members_of):
    for names in (("m/a", "n/b"), ("m/a", "b"), ("a",)):
        members = members_of(zipped([(name, b"") for name in names]))
        with pytest.raises(InvalidModel, match="common folder"):
            strip_root_folder(members, "file")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6))
def test_damage_is_reported_or_harmless(members_of, flips):
    content = bytearray(PLAIN)
    for at, byte in flips:
        content[at % len(content)] = byte
    try:
        members = members_of(bytes(content))
    except BadInput:
        return
    assert all(one.offset + one.size_bytes <= len(content) for one in members.values())
