"""Input files: what is one, and what is said of anything else."""

import os
import stat

import pytest

from palettery.app.errors import BadInput
from palettery.app.storage.input_files import check_readable, displayable, file_kind


def test_regular_files_and_links_to_them_are_read(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    check_readable(tmp_path / "file")
    check_readable(tmp_path / "link")


def missing(path):
    return path, "there is no file"


def dangling(path):
    path.symlink_to("nowhere")
    return path, "a link to nowhere"


def loop(path):
    path.symlink_to(path.name)
    return path, "Too many levels"


def folder(path):
    path.mkdir()
    return path, "is a folder, not a regular file"


def pipe(path):
    os.mkfifo(path)
    return path, "is a pipe, not a regular file"


def url(path):
    return path.relative_to(path) / "https:/example.org/m", "is a URL, and only local files"


def null(path):
    return path.with_name("a\0b"), "embedded null"


def no_text(path):
    odd = path.with_name("\udcff")
    odd.touch()
    return odd, r"the name .*xff is not UTF-8"


@pytest.mark.parametrize("make", [missing, dangling, loop, folder, pipe, url, null, no_text])
def test_anything_else_is_named(tmp_path, make):
    path, message = make(tmp_path / "x")
    with pytest.raises(BadInput, match=message):
        check_readable(path)


def test_kinds_and_names_in_words():
    assert file_kind(stat.S_IFSOCK) == "a socket"
    assert file_kind(stat.S_IFREG) == "a file"
    assert displayable("a\udcffb") == "a\\xffb"
