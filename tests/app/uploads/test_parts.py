"""Parts of uploads and their paths."""

import pytest

from palettery.app.uploads.parts import Part, count_parts, parse_upload_id, part_path, parts_of
from palettery.schemas.uploads import FileToSend


def files(*sizes):
    return [
        FileToSend(name=f"{n}", size_bytes=size, sha256="0" * 64) for n, size in enumerate(sizes)
    ]


def test_parts_are_numbered_over_all_files_and_the_last_of_each_is_shorter():
    assert list(parts_of(files(25, 10, 1), 10)) == [
        Part(1, 0, 0, 10),
        Part(2, 0, 10, 10),
        Part(3, 0, 20, 5),
        Part(4, 1, 0, 10),
        Part(5, 2, 0, 1),
    ]


@pytest.mark.parametrize("sizes", [[1], [10], [11], [9, 10, 11], [100, 1]])
def test_parts_cover_every_file(sizes):
    parts = list(parts_of(files(*sizes), 10))
    assert [part.number for part in parts] == [*range(1, count_parts(files(*sizes), 10) + 1)]
    for number, size in enumerate(sizes):
        own = [part for part in parts if part.file == number]
        covered = [n for p in own for n in range(p.offset, p.offset + p.size_bytes)]
        assert covered == [*range(size)]


def test_the_upload_of_a_parts_path():
    assert parse_upload_id(part_path("some-id", 3)) == "some-id"
    assert parse_upload_id("uploads/0123") is None
    assert parse_upload_id("jobs/parts/some-id/3") is None
