"""Targets on the command line: what is chosen, written and cached, and bad input."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from palettery import kernels
from palettery.schemas.report import Report
from palettery.schemas.targets import Allocation


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for every test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def no_kernel(monkeypatch):
    """A function after whose call every use of the kernel fails."""

    def forbid():
        monkeypatch.setattr(kernels, "palette_scores", None)
        monkeypatch.setattr(kernels, "palette_scores_rows", None)

    return forbid


def specs(text):
    return {
        tensor["name"]: tensor["spec"] and (tensor["spec"]["n_bits"], tensor["spec"]["granularity"])
        for tensor in json.loads(text)["tensors"]
    }


def test_compress_to_a_target_and_again_by_the_chosen_config(palettery, model, tmp_path):
    out, config, report = tmp_path / "out", tmp_path / "chosen.yaml", tmp_path / "r.json"
    words = [model, "--target", "7kB", "--config-out", config, "--report", report]
    code, output, error = palettery("compress", *words, "-o", out)
    assert code == 0, error
    size = out.stat().st_size
    assert 0.98 * 7000 <= size <= 7000
    assert f"{size:,} of 7,000 bytes" in output
    assert "guess" in re.sub(r"\s+", " ", output)
    document = yaml.safe_load(config.read_text())["kmeans_palettization_config"]
    assert document["global_config"] is None
    assert all(
        set(rule) >= {"module_state_spec"} for rule in document["module_name_configs"].values()
    )
    again = tmp_path / "again"
    assert palettery("compress", model, "--config", config, "--strict", "-o", again)[0] == 0
    assert again.stat().st_size == size
    first, second = load_file(out), load_file(again)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    tensors = Report.model_validate_json(report.read_text()).tensors
    assert {"embeddings.weight", "encoder.0.weight"} <= {tensor.name for tensor in tensors}


def test_another_target_runs_no_kernel(palettery, model, no_kernel, cache):
    first = palettery("plan", model, "--target", "0.3x", "--json")
    assert first[0] == 0
    assert len(list(cache.rglob("scores/*.json"))) == 1
    no_kernel()
    code, output, _ = palettery("plan", model, "--target", "9.5bpw", "--json")
    assert code == 0
    assert specs(output) != specs(first[1])
    found = Allocation.model_validate_json(output)
    weights = 50 * 16 + 64 * 32 + 64 + 32 * 64 + 32 * 27 + 1
    assert found.target_bytes == int(9.5 * weights / 8)
    assert found.size_bytes <= found.target_bytes


@pytest.mark.heavy
def test_nothing_that_the_solver_prints_is_in_the_output(model):
    """HiGHS prints by C's printf, which keeps lines for a pipe until the process ends."""
    program = (
        "import ctypes\n"
        "from palettery.app.cli import main, targets\n"
        "class Loud(targets.Allocator):\n"
        "    def allocate(self, target):\n"
        "        found = super().allocate(target)\n"
        "        ctypes.CDLL(None).printf(b'a line of the solver\\n')\n"
        "        return found\n"
        "targets.Allocator = Loud\n"
        "main.main()\n"
    )
    words = [sys.executable, "-c", program, "plan", str(model), "--target", "7kB", "--json"]
    # An unbuffered Python would keep C from buffering, too.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
    Allocation.model_validate_json(done.stdout)
    assert "a line of the solver" in done.stderr


def test_sensitivities_have_scores_of_their_own(palettery, model, arrays, tmp_path):
    given = {name: np.ones_like(array) for name, array in arrays.items() if array.ndim > 1}
    given["encoder.0.weight"] *= np.float32(1e8)
    save_file(given, tmp_path / "s.safetensors")
    words = ["plan", model, "--target", "6kB", "--json"]
    plain = palettery(*words)
    weighted = palettery(*words, "--sensitivities", tmp_path / "s.safetensors")
    assert (plain[0], weighted[0]) == (0, 0)
    assert json.loads(weighted[1])["weighted"]
    assert any("a guess" in note for note in json.loads(plain[1])["notes"])
    assert not any("a guess" in note for note in json.loads(weighted[1])["notes"])
    assert specs(plain[1])["encoder.0.weight"] != specs(weighted[1])["encoder.0.weight"]


def test_curves_as_json_and_as_a_page(palettery, model, tmp_path):
    data, page = tmp_path / "c.json", tmp_path / "c.html"
    for path in (data, page):
        assert palettery("plan", model, "--target", "7kB", "--curve", path)[0] == 0
    curve = json.loads(data.read_text())
    sizes = [point["size_bytes"] for point in curve["curve"]]
    assert sizes == sorted(sizes)
    assert len(sizes) > 20
    text = page.read_text()
    figure = json.loads(re.search(r'id="figure">(.*?)</script>', text)[1])
    assert figure["data"][1]["x"] == [curve["size_bytes"] / 1e6]
    assert "Plotly.newPlot" in text
    assert "://cdn" not in text.split('id="figure"')[1]


def test_choices_come_from_a_file(palettery, model, tmp_path):
    choices = tmp_path / "choices.yaml"
    choices.write_text("n_bits: [2, 4]\nkeep: false\nmax_bits: {'encoder.*': 2}\n")
    words = ["plan", model, "--target", "9kB", "--choices", choices, "--json"]
    code, output, error = palettery(*words)
    assert code == 0, error
    bits = {name: spec[0] for name, spec in specs(output).items()}
    assert bits == {
        "embeddings.weight": 4,
        "encoder.0.weight": 2,
        "encoder.1.weight": 2,
        "stem.weight": 4,
    }
    choices.write_text("n_bits: [5]\nkeeps: true\n")
    code, _, error = palettery(*words)
    assert code == 2
    assert "/n_bits/0: " in error
    assert "/keeps: " in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "16 apples"], "unknown unit 'apples'"),
        (["--target", "16"], "write it like 16MB"),
        (["--target", "9kB", "--target", "3bpw"], "2 targets were given: 9kB, 3bpw; give one"),
        (["--target", "100B"], "the least that these choices reach is "),
        (["--target", "9kB", "--preset", "small"], "the config sets all "),
        (["--preset", "w4", "--curve", "c.json"], "give --target, too, or leave out --curve"),
        (["--target", "9kB", "--curve", "/nowhere/c.json"], "there is no folder /nowhere"),
    ],
)
def test_bad_input(palettery, model, words, message):
    code, output, error = palettery("plan", model, *words)
    assert (code, output) == (2, "")
    assert message in error
    assert "Traceback" not in error


def test_the_preset_small_takes_embeddings_too(palettery, model):
    code, output, _ = palettery("plan", model, "--preset", "small", "--json")
    assert code == 0
    planned = {tensor["name"]: tensor for tensor in json.loads(output)["tensors"]}
    assert planned["embeddings.weight"]["spec"]["n_bits"] == 4
    assert planned["encoder.0.weight"]["clustering"]["group_size"] == 16
