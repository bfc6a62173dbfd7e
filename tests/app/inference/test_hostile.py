"""Hostile inputs and programs, on the way that runs a model: refused in a sentence, nothing run."""

import pytest
import torch
from safetensors.torch import save_file

from tests.forged import archived, changed
from tests.hostile import GRAPH, INPUTS, REFUSED, sound_pt2

pytestmark = pytest.mark.heavy

PROGRAMS = [name for name in REFUSED if name.startswith("pt2, ")][::4]


@pytest.fixture
def canary(tmp_path):
    yield tmp_path / "canary"
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs(kind, canary, palettery, tmp_path):
    build = INPUTS[kind]
    model, inputs = tmp_path / "model.pt2", tmp_path / "inputs"
    model.write_bytes(archived(*sound_pt2().items()))
    inputs.write_bytes(build(canary))
    code, out, told = palettery("calibrate", model, "--inputs", inputs, "-o", tmp_path / "out")
    assert (code, out, told.count("\n")) == (2, "", 1)
    assert "no safetensors file" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inputs", "model.pt2"]


@pytest.mark.parametrize("kind", PROGRAMS)
def test_programs(kind, canary, palettery, tmp_path):
    ((name, content),) = REFUSED[kind].files(canary).items()
    (tmp_path / name).write_bytes(content)
    save_file({"input": torch.ones(1, 4)}, tmp_path / "inputs")
    words = ("--inputs", tmp_path / "inputs", "-o", tmp_path / "out")
    code, out, told = palettery("calibrate", tmp_path / name, *words)
    assert (code, out, told.count("\n")) == (2, "", 1)


def test_a_program_that_calls_what_is_not_on_the_list(palettery, tmp_path):
    def change(document):
        (node,) = document["graph_module"]["graph"]["nodes"]
        node["target"] = "torch.ops.aten.from_file.default"

    members = changed(sound_pt2(), GRAPH, change)
    (tmp_path / "model.pt2").write_bytes(archived(*members.items()))
    save_file({"input": torch.ones(1, 4)}, tmp_path / "inputs")
    words = ("--inputs", tmp_path / "inputs", "-o", tmp_path / "out")
    code, _, told = palettery("calibrate", tmp_path / "model.pt2", *words)
    assert (code, "from_file" in told, "nothing of it was run" in told) == (2, True, True)
