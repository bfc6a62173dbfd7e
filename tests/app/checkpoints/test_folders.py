"""Folders as people keep them: two sets of weights, and files of other programs."""

import json

import pytest

from app.checkpoints.read import read_checkpoint
from app.errors import BadInput
from app.local_files import stored_files
from app.settings import Limits
from tests.forged import safetensors_bytes, tensor

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def shard(name):
    return safetensors_bytes({name: tensor()}, bytes(8))


def read(folder):
    upload = stored_files([folder], digests=False)
    return read_checkpoint(upload.storage, upload.files, Limits())


def test_the_index_of_a_folder_decides_and_dot_files_are_no_part_of_it(tmp_path):
    said = {"weight_map": {"a": FIRST, "b": SECOND}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(said))
    for name, content in ((FIRST, "a"), (SECOND, "b"), ("consolidated.safetensors", "layers.0.a")):
        (tmp_path / name).write_bytes(shard(content))
    for name in ("._model.safetensors", f"._{FIRST}", ".model.safetensors.index.json"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7" + bytes(100))
    found = read(tmp_path)
    assert [held.name for held in found.tensors] == ["a", "b"]
    assert found.warnings[0] == (
        "left out, for model.safetensors.index.json does not name it: consolidated.safetensors"
    )
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / SECOND).unlink()
    with pytest.raises(BadInput, match="lacks number 2"):
        read(tmp_path)


def test_a_folder_of_dot_files_holds_no_model(tmp_path):
    (tmp_path / "._model.safetensors").write_bytes(b"\0\5\x16\7")
    with pytest.raises(BadInput, match=r"no \.safetensors file"):
        read(tmp_path)
