"""Inputs that are made of pictures and texts, by the command."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from palettery.app.inference.text_inputs import read_texts


@pytest.mark.heavy
def test_pictures(palettery, tmp_path):
    folder, out = tmp_path / "pictures", tmp_path / "inputs.safetensors"
    folder.mkdir()
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 2:6, 0] = 255  # the middle is red
    Image.fromarray(pixels).save(folder / "b.png")
    Image.fromarray(np.full((4, 4), 51, np.uint8)).save(folder / "a.png")
    words = ("--size", 4, "--mean", 0.5, 0, 0, "--std", 0.5, 1, 1, "-o", out)
    code, _, told = palettery("images", folder, *words)
    assert (code, told) == (0, "2 pictures\n")
    ((grey, red),) = (load_file(out)["pixel_values"],)
    torch.testing.assert_close(grey[:, 0, 0], torch.tensor([-0.6, 0.2, 0.2]))
    assert torch.equal(red, torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 4, 4))
    (folder / "c.png").write_bytes(b"none")
    code, _, told = palettery("images", folder, *words)
    assert (code, "the picture c.png cannot be read" in told) == (2, True)


def test_texts_of_lines_and_of_parts(tmp_path):
    path = tmp_path / "texts"
    path.write_text("one\n\ntwo\n%\n three\n%\n")
    assert read_texts([path], None) == ["one", "two", "%", "three", "%"]
    assert read_texts([path], "%") == ["one\n\ntwo", "three"]


@pytest.mark.heavy
def test_tokens(palettery, tmp_path):
    folder, texts, out = (tmp_path / name for name in ("model", "texts", "inputs.safetensors"))
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
    (folder / "vocab.txt").write_text("\n".join(words))
    settings = {"tokenizer_class": "BertTokenizer", "auto_map": {"AutoTokenizer": ["x.X", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "x.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    texts.write_text("a b\nc\na b c a b c\n")
    words = ("--texts", texts, "--max-length", 5, "--count", 2, "-o", out)
    code, _, told = palettery("tokenize", folder, *words)
    assert (code, told) == (0, "2 texts\n")
    tokens = load_file(out)
    assert tokens["input_ids"].tolist() == [[2, 5, 6, 3], [2, 7, 3, 0]]
    assert tokens["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert not (tmp_path / "canary").exists()


def test_a_folder_without_a_tokenizer(palettery, tmp_path):
    (tmp_path / "texts").write_text("a\n")
    words = ("--texts", tmp_path / "texts", "-o", tmp_path / "out")
    code, _, told = palettery("tokenize", tmp_path, *words)
    assert (code, "holds no tokenizer" in told) == (2, True)
