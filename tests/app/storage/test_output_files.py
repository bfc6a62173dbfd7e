"""Outputs on disk, whole or not at all; the command line's tests have every kind of path."""

import os

import pytest

from palettery.app.errors import BadInput, PaletteryError
from palettery.app.storage.output_files import Output, check_distinct, is_html, is_stdout


def test_result_is_published_and_nothing_else_is_left(tmp_path):
    with Output(tmp_path / "out") as output:
        assert output.folder.parent == tmp_path
        output.write([b"one", memoryview(b"two")])
    assert [*tmp_path.iterdir()] == [tmp_path / "out"]
    assert (tmp_path / "out").read_bytes() == b"onetwo"


def test_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    with Output(tmp_path / "link") as output:
        output.write([b"new"])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_result_that_cannot_be_published_is_kept(tmp_path):
    with Output(tmp_path / "out") as output:
        (tmp_path / "out").mkdir()
        with pytest.raises(PaletteryError, match=r"is a folder.*the result is kept at") as error:
            output.write([b"kept"])
    kept = error.value.detail.rpartition(" kept at ")[2]
    with open(kept, "rb") as file:  # noqa: PTH123
        assert file.read() == b"kept"


def test_folder_can_be_an_output_where_several_files_are(tmp_path):
    Output(tmp_path, or_folder=True)
    Output(tmp_path / "a" / "b", or_folder=True)
    with pytest.raises(BadInput, match="is a folder; name a file"):
        Output(tmp_path)
    with pytest.raises(BadInput, match="there is no folder"):
        Output(tmp_path / "a" / "b")


def test_inputs_and_outputs_are_different_files(tmp_path):
    (tmp_path / "model").touch()
    (tmp_path / "link").symlink_to("model")
    out, same = Output(tmp_path / "out"), Output(tmp_path / "." / "out")
    check_distinct([out], model=[tmp_path / "model"])
    with pytest.raises(BadInput, match="is the other output, too"):
        check_distinct([out, same])
    with pytest.raises(BadInput, match="a file of the model"):
        check_distinct([Output(tmp_path / "link")], model=[tmp_path / "model"])


def test_long_name_leaves_room_for_that_of_its_folder(tmp_path):
    assert len(Output(tmp_path / ("x" * 255)).sibling("suffix").name) < 220


def test_pages_and_standard_output(tmp_path):
    assert is_html(tmp_path / "a.HTML")
    assert not is_html(tmp_path / "a.json")
    assert not is_stdout(tmp_path / "nothing")
    with (tmp_path / "file").open("wb") as file:
        before = os.dup(1)
        try:
            os.dup2(file.fileno(), 1)
            assert is_stdout(tmp_path / "file")
        finally:
            os.dup2(before, 1)
            os.close(before)
