"""The walk of docs/quality.md runs as written, on a Hugging Face folder."""

import json
import random
import re
import shlex
from pathlib import Path

import pytest
from safetensors.torch import load_file

WALK = (Path(__file__).parents[3] / "docs" / "quality.md").read_text()
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A Hugging Face folder of a small model with random weights, and texts beside it."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(WORDS), num_hidden_layers=2, **sizes)
    BertForMaskedLM(config).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "vocab.txt").write_text("\n".join(WORDS))
    chosen = random.Random(0)  # noqa: S311 - texts of a test
    lines = [" ".join(chosen.choices(WORDS[5:], k=chosen.randint(3, 20))) for _ in range(200)]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.heavy
def test_the_walk(folder, palettery):
    (block,) = re.findall(r"```sh\n(.*?)```", WALK, re.DOTALL)
    commands = block.splitlines()
    assert len(commands) == 5
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "palettery"
        code, out, told = palettery(*words)
        assert code == 0, (command, told)
        assert "of the calibration, on which" not in told
    assert "same top class" in out
    calibration = json.loads((folder / "calibration" / "calibration.json").read_text())
    assert calibration["samples"] == 128
    stored = load_file(folder / "model" / "model.safetensors")
    sensitivities = load_file(folder / "calibration" / "sensitivities.safetensors")
    assert sensitivities.keys() == {name for name, each in stored.items() if each.dim() > 1}
    moments = load_file(folder / "calibration" / "second_moments.safetensors")
    assert len(moments) == 2 * 4 + 1  # query, key, value share one; the decoder is tied
    code, _, told = palettery(
        *("evaluate", "model", "packed.safetensors", "--inputs", "calibrate.safetensors"),
        *("--calibration", "calibration", "--at-least", "cosine=0.9999"),
    )
    assert code == 1
    assert "128 of these samples are samples of the calibration" in told


@pytest.mark.heavy
def test_a_folder_that_cannot_be_run(folder, palettery, tmp_path):
    assert palettery("tokenize", "model", "--texts", "texts.txt", "-o", "inputs")[0] == 0
    config = folder / "model" / "config.json"
    settings = json.loads(config.read_text())
    calibrate = ("calibrate", "model", "--inputs", "inputs", "-o", "calibration")
    for change, said in (
        ({"vocab_size": 8}, "lacks"),
        (
            {"model_type": "none", "auto_map": {"AutoModel": "x.X"}},
            "needs Python code from outside",
        ),
    ):
        config.write_text(json.dumps(settings | change))
        (folder / "model" / "x.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
        code, _, told = palettery(*calibrate)
        assert (code, said in told) == (2, True), told
    assert not (tmp_path / "canary").exists()
    config.write_text(json.dumps(settings))
    (folder / "model" / "vocab.txt").write_text("\n".join([*WORDS, *map(str, range(9))]))
    (folder / "texts.txt").write_text("a 8\n")
    assert palettery("tokenize", "model", "--texts", "texts.txt", "-o", "inputs")[0] == 0
    code, _, told = palettery(*calibrate)
    assert (code, "the model's embedding has 31 rows, so 0 to 30 are allowed" in told) == (2, True)
