"""Packed models in transformers: loaded by from_pretrained, saved, and loaded again."""

import json
import shutil
from functools import cache
from itertools import cycle

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

import palettery.transformers
from palettery.app.artifacts import load
from palettery.app.artifacts.packed_weights import PackedWeight
from palettery.app.artifacts.transformers_quantizer import PaletteryQuantizer
from palettery.app.cli.offline import compress, export_to_transformers
from palettery.app.compression import layout
from palettery.app.errors import BadInput, InvalidArtifact, UnsupportedFormat
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.config.presets import EMBEDDING
from tests.app.stored_job import grouped

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("configs_in_this_process")]

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}
IDS = {"input_ids": torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])}
IMAGE = {"pixel_values": torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)}
LLAMA = TEXT | {"tie_word_embeddings": True, "num_key_value_heads": 2}
VIT = {key: TEXT[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
RESNET = {"hidden_sizes": [16, 32], "depths": [1, 1], "embedding_size": 16}
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
MODELS = {
    "encoder": (lambda: transformers.BertModel(transformers.BertConfig(**TEXT)), IDS),
    "masked": (lambda: transformers.BertForMaskedLM(transformers.BertConfig(**TEXT)), IDS),
    "causal": (lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)), IDS),
    "transposed": (lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)), IDS),
    "pictures": (
        lambda: transformers.ViTModel(
            transformers.ViTConfig(image_size=32, patch_size=8, intermediate_size=48, **VIT)
        ),
        IMAGE,
    ),
    "convolutions": (lambda: transformers.ResNetModel(transformers.ResNetConfig(**RESNET)), IMAGE),
}
SPECS = {
    "rows": {"n_bits": 4, "granularity": grouped(4)},
    "columns": {"n_bits": 3, "granularity": grouped(4, axis=1)},
    "scaled": {"n_bits": 2, "enable_per_channel_scale": True},
    "quantized": {"n_bits": 4, "lut_qspec": {"dtype": "int8"}},
    "vectors": {"n_bits": 2, "cluster_dim": 2},
    "sparse": {"n_bits": 4, "sparsity_detection_threshold": 0.01},
}


MIXED = {
    "mixed": ("rows", "columns", "scaled"),
    "otherwise mixed": ("quantized", "vectors", "sparse"),
}
"""Specs of the embeddings of an encoder, whose layers have all specs in turn."""
EMBEDDINGS = [f"embeddings.{name}_embeddings" for name in ("word", "position", "token_type")]
LAYERS = [
    f"encoder.layer.{layer}.{name}"
    for layer in range(TEXT["num_hidden_layers"])
    for name in (
        *(f"attention.self.{name}" for name in ("query", "key", "value")),
        *(f"{name}.dense" for name in ("attention.output", "intermediate", "output")),
    )
]


def rule(name, state="op_state_spec"):
    spec = SPECS[name]
    return {state: {"weight": spec}, "enable_fast_kmeans_mode": "cluster_dim" not in spec}


def rules(specs):
    """A config that palettizes embeddings, too."""
    if specs in SPECS:
        rules = {
            "global_config": rule(specs),
            "module_type_configs": {EMBEDDING: rule(specs, "module_state_spec")},
        }
    else:
        embeddings = dict(zip(EMBEDDINGS, MIXED[specs], strict=True))
        rules = {
            "global_config": None,
            "module_name_configs": {
                **{name: rule(spec, "module_state_spec") for name, spec in embeddings.items()},
                **{name: rule(spec) for name, spec in zip(LAYERS, cycle(SPECS), strict=False)},
            },
        }
    return KMeansPalettizerConfig.model_validate(rules)


def make(model, specs, folder):
    """Write a dense model, its artifact, and its packed model."""
    torch.manual_seed(0)
    dense = model().eval()
    with torch.no_grad():
        next(dense.parameters()).reshape(-1)[::3] = 0  # for a threshold of zeros
    dense.save_pretrained(folder / "dense")
    (folder / "dense" / "tokenizer.json").write_text("{}")
    compress([folder / "dense"], rules(specs), folder / "artifact", lambda *_: None)
    export_to_transformers([folder / "artifact"], folder / "dense", folder / "packed")
    state = {name: tensor.clone() for name, tensor in load(folder / "artifact").items()}
    save_file(state, folder / "dense" / "model.safetensors", {"format": "pt"})


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The folder of a model, which is made for the first test that takes it."""

    @cache
    def folder(name, specs):
        folder = tmp_path_factory.mktemp("made")
        make(MODELS[name][0], specs, folder)
        return folder

    return folder


@pytest.fixture
def packed(shared, tmp_path):
    """A packed model's folder, and the dense model that it decodes to."""

    def copy(name, specs="rows"):
        shutil.copytree(shared(name, specs), tmp_path, dirs_exist_ok=True)
        model = type(MODELS[name][0]())
        return tmp_path / "packed", model.from_pretrained(tmp_path / "dense")

    return copy


def outputs(model, inputs):
    with torch.no_grad():
        return model(**inputs, return_dict=False)[0]


def packed_bytes(model):
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values()}
    return sum(tensors.values())


@pytest.mark.parametrize("name", MODELS)
def test_it_loads_and_is_saved_as_the_dense_model_computes(packed, tmp_path, name):
    inputs = MODELS[name][1]
    folder, dense = packed(name)
    loaded = type(dense).from_pretrained(folder)
    assert any(isinstance(module, PackedWeight) for module in loaded.modules())
    assert torch.equal(outputs(loaded, inputs), outputs(dense, inputs))
    assert (folder / "tokenizer.json").exists()
    loaded.save_pretrained(tmp_path / "again")
    again = type(dense).from_pretrained(tmp_path / "again")
    assert torch.equal(outputs(again, inputs), outputs(dense, inputs))
    stored_bytes = (tmp_path / "again" / "model.safetensors").stat().st_size
    assert packed_bytes(again) <= stored_bytes


@pytest.mark.parametrize("specs", MIXED)
def test_every_kind_of_palette(packed, specs):
    folder, dense = packed("encoder", specs)
    loaded = transformers.AutoModel.from_pretrained(folder)
    assert all(hasattr(loaded.get_submodule(name), "weight_palette") for name in LAYERS)
    assert all(hasattr(loaded.get_submodule(name), "weight_palette") for name in EMBEDDINGS)
    assert torch.equal(outputs(loaded, IDS), outputs(dense, IDS))
    assert not loaded.embeddings.word_embeddings.weight.requires_grad


def test_another_head_on_the_same_weights(packed):
    """Prefixes come and go as with any model of transformers."""
    folder, dense = packed("masked")
    body = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    assert torch.equal(outputs(body, IDS), outputs(dense.bert, IDS))


@pytest.mark.parametrize("specs", MIXED)
def test_half_precision(packed, specs):
    folder, dense = packed("encoder", specs)
    loaded = transformers.AutoModel.from_pretrained(folder, dtype=torch.float16)
    result = outputs(loaded, IDS)
    assert result.dtype == torch.float16
    torch.testing.assert_close(result, outputs(dense.half(), IDS), rtol=0.02, atol=0.02)


def test_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "SHARD_BYTES", 8_000)
    make(MODELS["encoder"][0], "rows", tmp_path)
    assert (tmp_path / "packed" / "model.safetensors.index.json").exists()
    loaded, dense = (
        transformers.AutoModel.from_pretrained(tmp_path / name) for name in ("packed", "dense")
    )
    assert torch.equal(outputs(loaded, IDS), outputs(dense, IDS))


def test_what_cannot_be_loaded(packed):
    folder, _ = packed("encoder")
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "palettery", "format_version": 1}

    def with_config(**changed):
        (folder / "config.json").write_text(json.dumps(config | changed))
        return folder

    newer = {"quant_method": "palettery", "format_version": 2}
    with pytest.raises(InvalidArtifact, match=r"format version 2.*upgrade"):
        transformers.AutoModel.from_pretrained(with_config(quantization_config=newer))
    with pytest.raises(InvalidArtifact, match=r"has the shape \[64, 32\] .*of another model"):
        transformers.AutoModel.from_pretrained(with_config(vocab_size=65))
    other = transformers.ResNetConfig(**RESNET).to_dict()
    with pytest.raises(InvalidArtifact, match="ResNetModel has none of the palettized weights"):
        transformers.AutoModel.from_pretrained(with_config(**other))
    with pytest.raises(UnsupportedFormat, match="torch finds no CUDA device"):
        PaletteryQuantizer(palettery.transformers.PaletteryConfig()).validate_environment(
            device_map={"": "cuda:0"}
        )


def test_what_cannot_be_exported(packed, tmp_path):
    folder, _ = packed("encoder")
    artifact, dense = tmp_path / "artifact", tmp_path / "dense"
    with pytest.raises(BadInput, match="exists, so it is not replaced"):
        export_to_transformers([artifact], dense, folder)
    with pytest.raises(BadInput, match=r"cannot read .*config\.json.*--model takes the folder"):
        export_to_transformers([artifact], tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(BadInput, match="is of a quantized model"):
        export_to_transformers([artifact], folder, tmp_path / "new")
    config = json.loads((dense / "config.json").read_text())
    (dense / "config.json").write_text(json.dumps(config | {"architectures": ["Nothing"]}))
    with pytest.raises(UnsupportedFormat, match="has no class Nothing"):
        export_to_transformers([artifact], dense, tmp_path / "new")
    (dense / "config.json").write_text(json.dumps(config | {"vocab_size": 3}))
    with pytest.raises(InvalidArtifact, match="has the shape"):
        export_to_transformers([artifact], dense, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_rows_of_an_embedding_are_decoded_alone(packed):
    folder, dense = packed("encoder")
    loaded = transformers.AutoModel.from_pretrained(folder)
    table = loaded.embeddings.word_embeddings
    assert isinstance(table, nn.Embedding)
    numbers = torch.tensor([[63, 0], [5, 5]])
    assert torch.equal(table(numbers), dense.embeddings.word_embeddings(numbers))
    assert torch.equal(
        table.weight_palette.rows(numbers), dense.embeddings.word_embeddings(numbers)
    )
