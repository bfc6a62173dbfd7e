"""Folders of sandboxed processes: gone in the end, and nothing odd in them is read."""

import os

import pytest

from palettery.app.sandbox.working_folder import (
    PREFIX,
    open_regular,
    remove_tree,
    working_folder,
)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_folder_is_empty_and_gone_in_the_end(temporary):
    with working_folder() as folder:
        assert [*temporary.iterdir()] == [folder]
        assert [*folder.iterdir()] == []
        (folder / "a").mkdir()
        (folder / "a" / "b").write_text("c")
    assert [*temporary.iterdir()] == []


def test_what_killed_processes_left_is_removed_and_what_others_use_is_not(temporary):
    abandoned = temporary / f"{PREFIX}abandoned"
    abandoned.mkdir()
    (abandoned / "file").touch()
    with working_folder() as first, working_folder() as second:
        assert {*temporary.iterdir()} == {first, second}


def test_tree_is_removed_and_a_missing_one_is_no_error(temporary):
    (temporary / "a" / "b").mkdir(parents=True)
    remove_tree(temporary / "a")
    remove_tree(temporary / "a")
    assert [*temporary.iterdir()] == []


def test_regular_file_is_read(temporary):
    (temporary / "answer").write_bytes(b"42")
    with open_regular(temporary / "answer") as file:
        assert file.read() == b"42"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "nothing"])
def test_what_is_no_regular_file_is_not_read(tmp_path, kind):
    path = tmp_path / "answer"
    {
        "link": lambda: path.symlink_to("/etc/passwd"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "nothing": lambda: None,
    }[kind]()
    with pytest.raises(FileNotFoundError):
        open_regular(path)


def test_a_link_in_place_of_a_folder_is_not_followed(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "sums").write_bytes(b"secret")
    (tmp_path / "state-1").symlink_to("theirs")
    with open_regular(tmp_path / "theirs" / "sums") as file:
        assert file.read() == b"secret"
    with pytest.raises(FileNotFoundError, match="not a regular file"):
        open_regular(tmp_path / "state-1" / "sums")
