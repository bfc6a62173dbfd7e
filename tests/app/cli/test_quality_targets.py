"""Targets of a quality on the command line: what is measured, written and kept, and bad input."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import save_file

from palettery import kernels
from palettery.app.compression import task as compression_task
from palettery.schemas.report import Report
from tests.forged import export

FEW = "{n_bits: [2, 4, 8], granularities: [{type: per_tensor}]}"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """A cache of its own for every test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def files(tmp_path):
    """A model, inputs, and few choices."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(48, 48) for _ in range(3)]
    net = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1], torch.nn.Tanh(), layers[2])
    batch = torch.export.Dim("batch")
    program = export(net.eval(), torch.randn(3, 48), dynamic_shapes=({0: batch},))
    (tmp_path / "net.pt2").write_bytes(program)
    inputs = np.random.default_rng(1).normal(size=(64, 48)).astype("f4")
    save_file({"input": inputs}, tmp_path / "x.safetensors")
    (tmp_path / "few.yaml").write_text(FEW)
    return tmp_path


@pytest.mark.heavy
def test_compress_to_a_quality(palettery, files, monkeypatch):
    palettized = []
    run = compression_task.palettize

    def counted(sources, item, *rest):
        palettized.append((item.name, item.spec))
        return run(sources, item, *rest)

    monkeypatch.setattr(compression_task, "palettize", counted)
    words = ["--inputs", files / "x.safetensors", "--choices", files / "few.yaml"]
    words += ["--config-out", files / "c.yaml", "--report", files / "r.json"]
    words += ["--curve", files / "curve.json", "-o", files / "out"]
    target = ["--target", "cosine>=0.98"]
    code, output, error = palettery("compress", files / "net.pt2", *target, *words)
    assert code == 0, error
    report = Report.model_validate_json((files / "r.json").read_text())
    trail = report.allocation.measured
    assert len(re.findall("measured: ", error)) == len(trail) <= 8
    reached = [each.size_bytes for each in trail if each.reached["cosine"] >= 0.98]
    assert (files / "out").stat().st_size == min(reached)
    assert len(trail) > len(reached) > 0
    assert f"{min(reached):,}" in output
    assert "(chosen)" in output
    assert report.evaluation.goals == ("cosine=0.98",)
    assert len(palettized) == len(set(palettized)), "no tensor is palettized twice alike"
    assert json.loads((files / "curve.json").read_text())["curve"]
    chosen = yaml.safe_load((files / "c.yaml").read_text())["kmeans_palettization_config"]
    assert chosen["module_name_configs"]
    again = ["--config", files / "c.yaml", "-o", files / "again"]
    assert palettery("compress", files / "net.pt2", *again)[0] == 0
    assert (files / "again").read_bytes() == (files / "out").read_bytes()


@pytest.mark.heavy
def test_a_quality_that_is_missed_keeps_the_best(palettery, files):
    (files / "few.yaml").write_text("{n_bits: [1], keep: false}")
    words = ["--inputs", files / "x.safetensors", "--choices", files / "few.yaml"]
    words += ["--target", "snr_db>=60", "-o", files / "out"]
    code, _, error = palettery("compress", files / "net.pt2", *words)
    assert code == 1
    assert "snr_db=60 was required" in " ".join(error.split())
    assert (files / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "cosine>=0.9"], "measured on inputs: add --inputs FILE"),
        (["--target", "16MB", "--inputs", "x"], "--inputs are for a target of a quality"),
        (["--inputs", "x"], "--inputs are for a target of a quality"),
        (["--target", "cosine>=0.9", "--target", "9MB", "--inputs", "x"], "2 targets were given"),
        (["--target", "cosine>=3", "--inputs", "x"], "at most 1"),
    ],
)
def test_targets_that_are_refused(palettery, model, tmp_path, words, message, monkeypatch):
    monkeypatch.setattr(kernels, "palette_scores", None)
    code, _, error = palettery("compress", model, *words, "-o", tmp_path / "out")
    assert code == 2
    assert message in " ".join(error.split())
    assert not (tmp_path / "out").exists()


def test_a_plan_of_a_quality_is_refused(palettery, model):
    code, _, error = palettery("plan", model, "--target", "cosine>=0.9")
    assert code == 2
    assert "a plan cannot measure a quality" in " ".join(error.split())


def test_a_job_of_a_quality_without_inputs_is_refused(palettery, model):
    words = ["--target", "cosine>=0.9", "--server", "http://127.0.0.1:9"]  # is never reached
    code, _, error = palettery("submit", model, *words)
    assert code == 2
    assert "measured on inputs: add --evaluate FILE" in " ".join(error.split())
