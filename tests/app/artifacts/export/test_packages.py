"""Exports that are folders."""

import zipfile

import pytest

from palettery.app.artifacts.export.packages import check_package, is_package, unpack_package
from palettery.app.errors import BadInput

NAMES = [("x.mlpackage", "coreml", "Manifest.json"), ("x.aimodel", "coreai", "main.mlirb")]


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "export"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("made/Manifest.json", "{}")
        file.writestr("made/Data/weight.bin", b"new")
    return path


@pytest.mark.parametrize(("name", "to", "mark"), NAMES)
@pytest.mark.parametrize("before", ["nothing", "empty", "package"])
def test_a_name_of_a_package_gets_the_folder(tmp_path, archive, name, to, mark, before):
    out, aside = tmp_path / name, tmp_path / "aside"
    aside.mkdir()
    if before != "nothing":
        out.mkdir()
    if before == "package":
        (out / mark).write_text("old")
        (out / "old").write_text("old")
    assert is_package(out)
    check_package(out, to)
    unpack_package(archive, out, aside)
    assert sorted(path.name for path in out.iterdir()) == ["Data", "Manifest.json"]
    assert (out / "Data" / "weight.bin").read_bytes() == b"new"


@pytest.mark.parametrize(("name", "to", "mark"), NAMES)
def test_what_is_no_package_is_not_replaced(tmp_path, name, to, mark):
    out = tmp_path / name
    out.write_text(mark)
    with pytest.raises(BadInput, match="is not replaced"):
        check_package(out, to)
    out.unlink()
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="is not replaced"):
        check_package(out, to)
    assert (out / "thesis.txt").read_text() == "mine"
    linked = tmp_path / "link" / name
    linked.parent.mkdir()
    linked.symlink_to(out)
    with pytest.raises(BadInput, match="is not replaced"):
        check_package(linked, to)


@pytest.mark.parametrize(
    ("name", "to"), [("x.aimodel", "coreml"), ("x.mlpackage", "coreai"), ("x.mlpackage", "dense")]
)
def test_a_package_of_another_format_is_refused(tmp_path, name, to):
    with pytest.raises(BadInput, match="give it another name"):
        check_package(tmp_path / name, to)


@pytest.mark.parametrize("name", ["x.zip", "x.mlpackage.zip", "x.safetensors", "x"])
def test_any_other_name_gets_one_file(tmp_path, name):
    assert not is_package(tmp_path / name)
    check_package(tmp_path / name, "coreml")
