"""Files are there as a whole or not at all."""

import os

import pytest

from palettery.app.storage.atomic_file import (
    TEMPORARY,
    AtomicFile,
    create_with_folder,
    rename,
    temporary_path,
    unlink,
)


def test_file_appears_at_commit(tmp_path):
    target = tmp_path / "a" / "b" / "file"
    with AtomicFile(target) as file:
        file.write([b"one", b"two"])
        assert not target.exists()
        (temporary,) = target.parent.iterdir()
        assert TEMPORARY.search(temporary.name)
        file.commit()
    assert [*target.parent.iterdir()] == [target]
    assert target.read_bytes() == b"onetwo"


def test_nothing_is_left_without_commit(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with AtomicFile(tmp_path / "file") as file:
        file.write([b"new"])
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("copies", [True, False])
def test_ranges_of_other_files_are_appended(tmp_path, monkeypatch, copies):
    if not copies:

        def refuse(*_, **__):
            raise OSError(18, "no copies between these")

        monkeypatch.setattr(os, "copy_file_range", refuse)
    (tmp_path / "source").write_bytes(b"0123456789")
    with (tmp_path / "source").open("rb") as source, AtomicFile(tmp_path / "file") as file:
        file.write([b"x"])
        file.append(source.fileno(), 2, 3)
        file.append(source.fileno(), 8, 100)
        file.commit()
    assert (tmp_path / "file").read_bytes() == b"x23489"


def test_only_regular_files_are_replaced(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.touch()
    folder.mkdir()
    with pytest.raises(FileExistsError, match="not a regular file"):
        rename(source, folder)
    assert [*tmp_path.iterdir()] == [folder]


def test_folder_that_is_removed_meanwhile_is_made_again(tmp_path):
    path, left = tmp_path / "a" / "file", iter(range(2))

    def make():
        if next(left, None) is not None and path.parent.is_dir():
            path.parent.rmdir()
        return path.open("xb")

    create_with_folder(path, make).close()
    assert path.exists()


def test_names_are_new_and_what_is_missing_can_be_unlinked(tmp_path):
    assert temporary_path(tmp_path / "a") != temporary_path(tmp_path / "a")
    unlink(tmp_path / "nothing")
    (tmp_path / "file").touch()
    unlink(tmp_path / "file" / "below")
