"""Files of the page, plain and packed."""

import gzip
import hashlib
import os

import pytest

from palettery.app.dashboard.files import HERE, PLOTLY, body_of


def test_body_is_the_file_with_its_digest():
    plain = body_of(HERE / "main.js", is_gzipped=False)
    packed = body_of(HERE / "main.js", is_gzipped=True)
    assert plain.data == gzip.decompress(packed.data) == (HERE / "main.js").read_bytes()
    assert plain.media_type == packed.media_type == "text/javascript; charset=utf-8"
    for body in (plain, packed):
        assert body.etag == f'"{hashlib.sha256(body.data).hexdigest()}"'
    assert plain.etag != packed.etag


def test_file_is_read_again_only_when_it_has_changed(tmp_path):
    path = tmp_path / "a.css"
    path.write_text("a {}")
    first = body_of(path, is_gzipped=True)
    assert body_of(path, is_gzipped=True) is first
    path.write_text("b {}")
    os.utime(path, ns=(1, 1))
    assert body_of(path, is_gzipped=True).etag != first.etag


def test_missing_file_is_an_error_and_plotly_is_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        body_of(tmp_path / "a.js", is_gzipped=False)
    assert PLOTLY.is_file()
