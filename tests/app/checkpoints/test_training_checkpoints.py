"""Checkpoints of training programs."""

import json

import pytest
import safetensors.torch
import torch
from torch.distributed import checkpoint

from palettery.app.checkpoints.hf_config import quantization_warnings
from palettery.app.errors import InvalidModel
from tests.forged import saved


def distributed(tmp_path, **tensors):
    """A checkpoint of torch.distributed.checkpoint: the bytes of its one shard."""
    checkpoint.save({"model": tensors}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    (shard,) = (tmp_path / "dcp").glob("*.distcp")
    return shard.read_bytes()


@pytest.mark.filterwarnings("ignore")
def test_a_shard_of_a_distributed_checkpoint_is_named_with_its_way_out(read, tmp_path):
    two = distributed(tmp_path, a=torch.ones(4, 4), b=torch.ones(4))
    with pytest.raises(InvalidModel, match=r"bytes before its zip archive.*dcp_to_torch"):
        read({"__0_0.distcp": two})
    plain = saved({"a": torch.ones(4, 4)})
    for before in (b"PK\x03\x04" + bytes(60), plain, plain * 2):
        with pytest.raises(InvalidModel, match=r"dcp_to_torch.*else fetch"):
            read({"m.pt": before + plain})


@pytest.mark.parametrize("save", ["zip", "legacy", "safetensors"])
def test_placeholders_of_zero_3_are_no_model(read, save):
    layers = {f"layers.{number}.weight": torch.ones(0) for number in range(3)}
    placeholders = layers | {"layers.0.inv_freq": torch.ones(4)}

    def content(tensors):
        if save == "safetensors":
            return safetensors.torch.save(tensors)
        return saved(
            {"module": tensors, "ds_version": "0.9"},
            _use_new_zipfile_serialization=save == "zip",
        )

    with pytest.raises(InvalidModel, match=r"3 of the model's 4 tensors.*zero_to_fp32"):
        read({"zero_pp_rank_0_mp_rank_00_model_states.pt": content(placeholders)})
    real = placeholders | {f"real.{number}.weight": torch.ones(2, 2) for number in range(3)}
    assert len(read({"m": content(real)}).tensors) == len(real)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    ("taken", "left"),
    [("state_dict", "state_dict_ema"), ("model", "ema"), ("module", "params_ema")],
)
def test_tensors_that_a_training_checkpoint_holds_beside_are_named(read, is_zip, taken, left):
    weights = {"fc.weight": torch.ones(2, 2)}
    top = {left: {"fc.weight": torch.zeros(2, 2)}, taken: weights, "epoch": 3}
    top["optimizer"] = {"state": {0: {"exp_avg": torch.ones(2, 2)}}, "param_groups": []}
    checkpoint = read({"m.pth": saved(top, _use_new_zipfile_serialization=is_zip)})
    assert checkpoint.warnings[0] == (
        f"of m.pth only the tensors under {taken!r} are palettized, not those under {left!r}; to "
        "palettize those, save them as a checkpoint of their own"
    )
    del top[left]
    alone = read({"m.pth": saved(top, _use_new_zipfile_serialization=is_zip)})
    assert not any("palettized" in warning for warning in alone.warnings)


@pytest.mark.parametrize(
    ("quantization", "method"),
    [
        ({"quant_method": "gptq", "bits": 4}, "'gptq'"),
        ({"quant_method": "awq"}, "'awq'"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes'"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "'fp8'"),
        ({"load_in_8bit": True}, "'by no named method'"),
    ],
)
def test_a_config_of_quantized_weights_is_reported(read, quantization, method):
    content = safetensors.torch.save({"q.scales": torch.ones(2, 4)})
    config = {"model_type": "llama", "quantization_config": quantization}
    checkpoint = read({"m.safetensors": content, "config.json": json.dumps(config).encode()})
    assert f"quantized already ({method})" in checkpoint.warnings[0]


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "{", "[" * 100_000, '{"quantization_config": null}', '{"quantization_config": 4}'],
)
def test_other_configs_say_nothing_of_quantized_weights(text):
    assert quantization_warnings(text) == ()
