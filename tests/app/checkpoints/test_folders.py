"""Folders with two sets of weights, or with files of other programs."""

import json

import pytest
import torch

from palettery.app.checkpoints.local_files import stored_files
from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.errors import BadInput
from palettery.app.settings import Limits
from tests.forged import safetensors_bytes, saved, tensor

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def shard(name):
    return safetensors_bytes({name: tensor()}, bytes(8))


def read(folder):
    upload = stored_files([folder], digests=False)
    return read_checkpoint(upload.storage, upload.files, Limits())


def test_the_index_of_a_folder_decides_and_dot_files_are_no_part_of_it(tmp_path):
    index = {"weight_map": {"a": FIRST, "b": SECOND}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for name, content in ((FIRST, "a"), (SECOND, "b"), ("consolidated.safetensors", "layers.0.a")):
        (tmp_path / name).write_bytes(shard(content))
    for name in ("._model.safetensors", f"._{FIRST}", ".model.safetensors.index.json"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7" + bytes(100))
    checkpoint = read(tmp_path)
    assert [one.name for one in checkpoint.tensors] == ["a", "b"]
    assert checkpoint.warnings[0] == (
        "ignored, because model.safetensors.index.json does not name it: consolidated.safetensors"
    )
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / SECOND).unlink()
    with pytest.raises(BadInput, match="lacks number 2"):
        read(tmp_path)


def test_a_folder_of_dot_files_holds_no_model(tmp_path):
    (tmp_path / "._model.safetensors").write_bytes(b"\0\5\x16\7")
    with pytest.raises(BadInput, match=r"neither \.safetensors files"):
        read(tmp_path)


def test_a_folder_of_checkpoints_stands_for_its_shards_without_what_training_left(tmp_path):
    first, second = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
    index = {"weight_map": {"a": first, "b": second}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for name, key in ((first, "a"), (second, "b")):
        (tmp_path / name).write_bytes(saved({key: torch.ones(2)}))
    for name in ("optimizer.pt", "training_args.bin", "scheduler.bin"):
        (tmp_path / name).write_bytes(saved({"state": {}}))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert [one.name for one in read(tmp_path).tensors] == ["a", "b"]
    (tmp_path / "model.safetensors").write_bytes(shard("c"))  # then they are the same twice
    assert [one.name for one in read(tmp_path).tensors] == ["c"]


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("config", "is_taken"),
    [
        (b'{"model_type": "bert"}', True),
        (b'\xef\xbb\xbf{"architectures": ["BertModel"]}', True),
        (b'{"_class_name": "UNet2DConditionModel"}', False),
        (b"{", False),
        (b"\xff\xfe{\0}\0", False),
        (b"[]", False),
        (None, False),
    ],
)
def test_the_config_of_a_folder_is_taken_if_it_tells_of_the_model(
    tmp_path, weights, config, is_taken
):
    content = shard("a") if weights.endswith("safetensors") else saved({"a": torch.ones(2)})
    (tmp_path / weights).write_bytes(content)
    if config is not None:
        (tmp_path / "config.json").write_bytes(config)
    named = [file.name for file in stored_files([tmp_path], digests=False).files]
    assert named == [weights, "config.json"][: 1 + is_taken]


def test_a_folder_without_weights_says_what_to_do(tmp_path):
    (tmp_path / "best.ckpt").write_bytes(saved({"a": torch.ones(2)}))
    with pytest.raises(
        BadInput, match=r"neither \.safetensors.*nor pytorch_model\.bin; name the files"
    ):
        read(tmp_path)
    (tmp_path / "__0_0.distcp").write_bytes(b"PK")
    with pytest.raises(BadInput, match=r"torch\.distributed\.checkpoint.*dcp_to_torch"):
        read(tmp_path)
