"""Digests of requests, which must stay as they are: stored jobs hold them."""

import hashlib
import json

import pytest

from palettery.app.configs.documents import ConfigDocument
from palettery.app.http.idempotency import keyed_request
from palettery.app.http.multipart import Form
from palettery.app.jobs.form_options import read_form_options
from palettery.app.jobs.json_submission import read_submission
from palettery.app.jobs.request_parsing import ParsedRequest
from palettery.schemas.checkpoint import StoredFile

MODEL = StoredFile(name="m.safetensors", path="uploads/1", size_bytes=3, sha256="ab" * 32)
FORM = {
    "strict": b"true",
    "formats": b"torchao,dense",
    "label": b"x",
    "deadline_s": b"60",
    "webhook_url": b"https://e.x/",
    "keep_dense": b"true",
    "reuse": b"false",
    "priority": b"007",
}
SUBMISSION = {
    "model_id": "7d" * 32,
    "sensitivities_id": "5e" * 32,
    "config": {"global_config": None},
    "strict": True,
    "formats": ["torchao", "dense"],
    "label": "x",
    "deadline_s": 60,
    "webhook_url": "https://e.x/",
    "keep_dense": True,
    "reuse": False,
    "priority": 7,
}


def of_form(fields, config=None):
    form = Form(files={"model": [MODEL], "sensitivities": []}, config=config, texts=fields)
    document = None if config is None else ConfigDocument(config)
    digest = None if config is None else hashlib.sha256(config).hexdigest()
    return ParsedRequest(form, read_form_options(fields), document, digest)


def of_json(fields):
    parsed = read_submission(json.dumps(fields).encode())
    return ParsedRequest(parsed.models, parsed.options, None, parsed.config_sha256)


@pytest.mark.parametrize(
    ("request_", "digest"),
    [
        (
            of_form({"preset": b"w4"}),
            "28877e3182e14d5101ea5d72e4d5d8c2870af4d568a5281f9e2aade486a294bb",
        ),
        (
            of_form(FORM, b"{}"),
            "65510b9ed2151d9241353173607d500cf930c533ba723d8a9ce4dd887f326504",
        ),
        (
            of_json({"model_id": "7d" * 32, "preset": "w4"}),
            "dd3659dbf6185f157c090c5b70e0be0f5ab8d3a2ec5420b69f2194f4bb03f7b5",
        ),
        (
            of_json(SUBMISSION),
            "135281697fe40358240ca04e2299087b92dfc2b34acfb6dead7cbfb108a8785f",
        ),
    ],
)
def test_digests_of_the_first_version(request_, digest):
    assert keyed_request("key", *request_.identity()).sha256 == digest
