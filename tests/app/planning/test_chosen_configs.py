"""Configs that a target chose, on live models: coreai-opt gives every tensor the same bits."""

import pytest
import torch

from palettery.app.cli.targets import choose, chosen_document
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.targets import Choices

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
SIZES = {"vocab_size": 512, "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3}
GROUPS = {"type": "per_grouped_channel", "group_size": 8}
CHOICES = Choices(granularities=({"type": "per_tensor"}, GROUPS))


def bert():
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**SIZES, num_attention_heads=4)), IDS


def llama():
    from transformers import LlamaConfig, LlamaModel

    return LlamaModel(LlamaConfig(**SIZES, num_attention_heads=4, use_cache=False)), IDS


def resnet():
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64], depths=[2, 2], layer_type="basic"
    )
    return ResNetModel(config), torch.zeros(1, 3, 32, 32)


@pytest.mark.usefixtures("one_thread", "configs_in_this_process")
@pytest.mark.parametrize("build", [bert, llama, resnet])
def test_bits_and_groups_are_the_same_there(build, theirs, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    model, inputs = build()
    model.eval().save_pretrained(tmp_path / "model")
    config = KMeansPalettizerConfig.model_validate({})
    allocation = choose([tmp_path / "model"], config, ["0.2x"], lambda *_: None, choices=CHOICES)
    ours = {
        tensor.name: (
            tensor.spec.n_bits,
            getattr(tensor.spec.granularity, "group_size", None),
            tensor.spec.granularity.axis or 0,
        )
        for tensor in allocation.tensors
        if tensor.spec is not None
    }
    assert len({bits for bits, _, _ in ours.values()}) > 1
    document = chosen_document(allocation)["kmeans_palettization_config"]
    peer = {name: spec[:3] for name, spec in theirs(document, model, (inputs,)).items()}
    assert peer == ours
