"""Announcements of uploads: what a file may be called."""

import pytest
from pydantic import ValidationError

from palettery.schemas.uploads import FileToSend


def named(name):
    return FileToSend(name=name, size_bytes=1, sha256="0" * 64)


@pytest.mark.parametrize("name", [".", "..", " ", "   "])
def test_what_names_no_file(name):
    with pytest.raises(ValidationError, match="names no file; send the file's own name"):
        named(name)


@pytest.mark.parametrize("name", [".a", "..a", "...", "a b.safetensors", " a", "größe"])
def test_what_names_a_file(name):
    assert named(name).name == name
