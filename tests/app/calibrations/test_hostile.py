"""Hostile programs and inputs of calibrations over HTTP: refused before a worker sees them."""

import pytest
import torch
from safetensors.torch import save

from tests.forged import archived, changed
from tests.hostile import GRAPH, INPUTS, REFUSED, sound_pt2

pytestmark = pytest.mark.heavy

PROGRAMS = [name for name in REFUSED if name.startswith("pt2")]
SOUND = {"input": torch.ones(2, 4)}


@pytest.fixture
def canary(tmp_path):
    yield tmp_path / "canary"
    assert not (tmp_path / "canary").exists()


@pytest.fixture
def refusal(http, send):
    """The document that refuses a calibration of these bytes, where the first step does."""

    def ask(model, inputs):
        ids = {}
        for field, data, name in (
            ("model_id", model, "model.pt2"),
            ("inputs_id", inputs, "inputs.safetensors"),
        ):
            answer = send(data, name)
            if answer.is_error:
                return answer.json()
            ids[field] = answer.json()["id"]
        return http.post("/v1/calibrations", json=ids).json()

    yield ask
    assert http.get("/v1/calibrations").json()["items"] == []


@pytest.mark.parametrize("kind", PROGRAMS)
def test_programs(kind, canary, refusal):
    case = REFUSED[kind]
    (content,) = case.files(canary).values()
    document = refusal(content, save(SOUND))
    assert (document["code"], document["status"] // 100) == (case.code, 4)


@pytest.mark.parametrize("kind", [name for name in INPUTS if name != "nothing"])
def test_inputs(kind, canary, refusal):
    document = refusal(archived(*sound_pt2().items()), INPUTS[kind](canary))
    assert document["code"] in ("bad_input", "invalid_model", "too_large", "unsupported_format")
    assert document["status"] // 100 == 4


def test_a_program_that_calls_what_is_not_on_the_list(refusal):
    def change(document):
        (node,) = document["graph_module"]["graph"]["nodes"]
        node["target"] = "torch.ops.aten.from_file.default"

    members = changed(sound_pt2(), GRAPH, change)
    document = refusal(archived(*members.items()), save(SOUND))
    assert document["code"] == "unsupported_format"
    assert "from_file" in document["detail"]
