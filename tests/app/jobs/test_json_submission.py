"""Requests in JSON: what they may hold, and the faults of what they may not."""

import hashlib
import json

import pytest

from palettery.app.errors import BadInput
from palettery.app.jobs.form_options import read_form_options
from palettery.app.jobs.json_submission import ParsedSubmission, StoredModels, read_submission
from palettery.schemas.job_options import JobOptions

MODEL_ID = "7d" * 32
OPTIONS = {
    "config_name": "a@1",
    "strict": True,
    "reuse": False,
    "priority": 9,
    "deadline_s": 3600,
    "webhook_url": "https://example.com/hook",
}


def submission(**fields):
    return read_submission(json.dumps({"model_id": MODEL_ID, **fields}).encode())


def test_json_and_a_form_give_the_same_options():
    form = {name: str(value).encode() for name, value in OPTIONS.items()}
    form |= {name: str(OPTIONS[name]).lower().encode() for name in ("strict", "reuse")}
    assert submission(**OPTIONS).options == read_form_options(form) == JobOptions(**OPTIONS)


def test_json_without_options():
    assert submission() == ParsedSubmission(StoredModels(MODEL_ID, None), JobOptions(), None)
    assert submission(config=None, deadline_s=None) == submission()
    assert submission(sensitivities_id="5e" * 32).models.sensitivities_id == "5e" * 32


def test_config_is_not_validated_yet():
    digest = hashlib.sha256(b'{"global_config": 7}').hexdigest()
    assert submission(config={"global_config": 7}).config_sha256 == digest


@pytest.mark.parametrize(
    ("fields", "pointers"),
    [
        ({"model_id": "A" * 64}, ["/model_id"]),
        ({"model_id": None, "priority": 10}, ["/priority", "/model_id"]),
        ({"priority": "5"}, ["/priority"]),
        ({"label": ""}, ["/label"]),
        ({"strict": "true", "deadline_s": 0}, ["/strict", "/deadline_s"]),
        ({"deadline_s": 2_592_001}, ["/deadline_s"]),
        ({"model": "x", "webhook_url": "x" * 2049}, ["/webhook_url", "/model"]),
    ],
)
def test_json_with_faults_names_every_field(fields, pointers):
    with pytest.raises(BadInput, match="the request is not valid") as caught:
        submission(**fields)
    assert [error.pointer for error in caught.value.errors] == pointers


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"model_id: a", b'{"a": 1, "a": 2}', b"\xff", b"[" * 100_000]
)
def test_body_that_is_no_json_object(body):
    with pytest.raises(BadInput, match="the body is not a JSON object"):
        read_submission(body)
