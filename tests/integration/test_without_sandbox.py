"""A server on a machine that cannot protect its files from what strangers' models run."""

import json

import pytest
import torch
import transformers
from safetensors.torch import save
from torch import nn

from palettery.app.client import Client
from tests.forged import export
from tests.integration.embedded import serving

KEY = "k" * 32
BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
SERVERS = {
    "with keys": ({"PALETTERY_ADMIN_KEY": KEY}, False),
    "of one person": ({}, True),
}
"""What PALETTERY_SANDBOX_REQUIRED changes is a test of the settings."""


@pytest.fixture
def lacking(tmp_path):
    """Environment of a server that lacks the library of Landlock, in all its processes."""
    folder = tmp_path / "shim"
    folder.mkdir()
    (folder / "landlockpy.py").write_text("raise ImportError('none here')")
    return {"PYTHONPATH": str(folder)}


@pytest.mark.heavy
@pytest.mark.parametrize("kind", SERVERS)
def test_strangers_models_run_where_that_is_allowed(tmp_path, lacking, kind):
    environment, is_allowed = SERVERS[kind]
    torch.manual_seed(0)
    graph = tmp_path / "model.pt2"
    graph.write_bytes(export(nn.Sequential(nn.Linear(32, 32)).eval(), torch.randn(2, 32)))
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights.write_bytes(
        save(dict(transformers.BertModel(transformers.BertConfig(**BERT)).state_dict()))
    )
    config.write_text(json.dumps(BERT))
    key = environment.get("PALETTERY_ADMIN_KEY")
    with (
        serving(tmp_path / "data", 1, **environment, **lacking) as running,
        Client(str(running.http.base_url), key=key) as client,
    ):
        plan = client.plan([weights, config], preset="w4")
        job = client.wait(client.submit(graph, preset="w4", formats=["coreai"]).id)
        log = running.program.log.read_text()
    assert "files are not protected" in log
    assert ("configs are refused" in log) is not is_allowed
    if is_allowed:
        assert not any("sandbox" in warning for warning in plan.warnings)
        assert job.state == "succeeded", job.error
    else:
        assert "the server lacks the sandbox" in "".join(plan.warnings)
        assert (job.state, job.error.code) == ("failed", "sandbox_missing")
        assert "PALETTERY_SANDBOX_REQUIRED=false" in job.error.detail
