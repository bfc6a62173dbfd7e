"""What the README shows must run as written."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from palettery.app.artifacts import load
from palettery.app.cli.offline import compress, export
from palettery.app.settings import Limits
from palettery.schemas.config import parse_config
from palettery.schemas.config.presets import w4

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)[number]


def test_config_is_valid():
    config = parse_config(block("yaml"))
    assert config.module_name_configs["pooler"] is None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize(
    "granularity",
    [
        "{type: per_tensor}",
        "{type: per_grouped_channel, group_size: 4, axis: 0}",
        "{type: per_grouped_channel, group_size: 16, axis: 1}",
    ],
)
@pytest.mark.parametrize("n_bits", [1, 3, 4, 8])
def test_decoder_gives_what_decompress_gives(tmp_path, n_bits, granularity, scale, dtype):
    rng = np.random.default_rng(1)
    sparse = rng.normal(size=(24, 32)) * (rng.random((24, 32)) < 0.4)
    weights = {
        "a.weight": sparse.astype(dtype),
        "b.weight": rng.normal(size=(8, 16, 3, 3)).astype(dtype),
    }
    save_file(weights, tmp_path / "m.safetensors")
    config = parse_config(
        f"global_config: {{op_state_spec: {{weight: {{n_bits: {n_bits}, granularity: {granularity},"
        f" enable_per_channel_scale: {str(scale).lower()}, sparsity_detection_threshold: 0.5}}}}}}"
    )
    compress([tmp_path / "m.safetensors"], config, tmp_path / "out", lambda *_: None)
    export([tmp_path / "out"], "dense", tmp_path / "dense")
    dense = load_file(tmp_path / "dense")
    shown: dict[str, object] = {}
    exec(block("python", 1), shown)  # noqa: S102 - our own README
    decoded = dict(shown["decode"](tmp_path / "out"))
    assert decoded.keys() == weights.keys()
    for name, array in decoded.items():
        np.testing.assert_array_equal(array.astype(dtype), dense[name])


def test_decoder_is_under_twenty_numpy_lines():
    body = block("python", 1).split("def decode")[1].splitlines()
    assert len([line for line in body if line.strip()]) < 20


def test_a_module_gets_its_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, before = torch.nn.Linear(8, 16), torch.nn.Linear(8, 16)
    save_file({name: tensor.numpy() for name, tensor in before.state_dict().items()}, "m")
    compress([Path("m")], w4(), Path("packed.safetensors"), lambda *_: None)
    exec(block("python"), {"model": module})  # noqa: S102 - our own README
    assert torch.equal(module.bias, before.bias)
    assert torch.allclose(module.weight, before.weight, atol=0.1)


MINILM = Path(__file__).parents[1] / ".cache" / "minilm"
USING = Path(__file__).parents[1] / "docs" / "using.md"


@pytest.mark.heavy
@pytest.mark.skipif(not (MINILM / "model.safetensors").exists(), reason="make .cache/minilm first")
def test_a_model_of_transformers_gets_its_weights(tmp_path, monkeypatch):
    from transformers import AutoModel, BertConfig

    monkeypatch.chdir(tmp_path)
    settings = json.loads((MINILM / "config.json").read_text())
    model, decoded = (AutoModel.from_config(BertConfig(**settings)).eval() for _ in range(2))
    compress([MINILM / "model.safetensors"], w4(), Path("packed.safetensors"), lambda *_: None)
    exec(block("python"), {"model": model})  # noqa: S102 - our own README
    decoded.load_state_dict(load("packed.safetensors"), strict=False)
    words = torch.arange(100, 120)[None]
    with torch.no_grad():
        ours, theirs = (each(words).last_hidden_state for each in (model, decoded))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.heavy
@pytest.mark.skipif(not (MINILM / "model.safetensors").exists(), reason="make .cache/minilm first")
def test_transformers_loads_a_packed_model(tmp_path, monkeypatch):
    """The commands of docs/using.md, as they are written."""
    monkeypatch.chdir(tmp_path)
    Path("minilm").symlink_to(MINILM)
    compress([MINILM / "model.safetensors"], w4(), Path("packed.safetensors"), lambda *_: None)
    command, example = re.findall(r"```(?:sh|python)\n(.*?)```", USING.read_text(), re.DOTALL)[:2]
    program = Path(sys.executable).with_name("palettery")
    subprocess.run([program, *command.split()[1:]], check=True, stderr=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-c", example], check=True, stderr=subprocess.DEVNULL)
    assert Path("again/model.safetensors").stat().st_size < 60_000_000


def test_limits_are_the_ones_in_the_code():
    matches = re.findall(r"PALETTERY_LIMIT_(\w+)", README)
    assert matches
    assert {name.lower() for name in matches} <= Limits.model_fields.keys()
