"""Requests as forms and as JSON: what may stand in them, and what is said of what may not."""

import hashlib
import json

import pytest

from palettery.app.errors import BadInput, InvalidUpload
from palettery.app.http.multipart import Form
from palettery.app.jobs.options import JobOptions, StoredModelRequest, read_submission, wishes

FLAGS = ["strict", "reuse"]
NUMBERS = {"priority": "0 to 9", "deadline_s": "1 to 2,592,000"}


def read(**texts):
    return wishes(Form(config=texts.pop("config", None), texts=texts))


def test_form_that_wishes_nothing():
    assert read() == JobOptions(strict=False, reuse=True, priority=5, deadline_s=None)


def test_form_that_wishes_everything():
    said = {"strict": b"true", "reuse": b"false", "priority": b"9", "deadline_s": b"3600"}
    assert read(**said) == JobOptions(strict=True, reuse=False, priority=9, deadline_s=3600)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("priority", b"0", 0),
        ("priority", b"007", 7),
        ("deadline_s", b"1", 1),
        ("deadline_s", b"2592000", 30 * 86_400),
        ("strict", b"false", False),
        ("reuse", b"true", True),
    ],
)
def test_ends_of_what_is_allowed(name, text, value):
    assert getattr(read(**{name: text}), name) == value


@pytest.mark.parametrize("text", [b"", b"True", b"1", b"yes", b" true", b"true\n", b"\xff"])
@pytest.mark.parametrize("name", FLAGS)
def test_flag_that_is_neither(name, text):
    with pytest.raises(InvalidUpload) as told:
        read(**{name: text})
    got = repr(text.decode(errors="replace"))
    assert told.value.detail == f"the field {name!r} is {got}; send true or false"


BAD_NUMBERS = [
    b"",
    b"-1",
    b"+1",
    b"1.0",
    b"1e3",
    b"0x1",
    b" 1",
    b"1\n",
    b"one",
    b"\xff",
    b"\xd9\xa1",
]


@pytest.mark.parametrize("text", [*BAD_NUMBERS, b"9" * 9, b"9" * 100_000])
@pytest.mark.parametrize("name", NUMBERS)
def test_number_that_is_none_or_out_of_range(name, text):
    with pytest.raises(InvalidUpload) as told:
        read(**{name: text})
    got = repr(text[:64].decode(errors="replace"))
    expected = f"the field {name!r} is {got}; send a whole number from {NUMBERS[name]}"
    assert told.value.detail == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [("priority", b"10"), ("deadline_s", b"0"), ("deadline_s", b"2592001")],
)
def test_numbers_just_out_of_range(name, text):
    with pytest.raises(
        InvalidUpload, match=f"the field '{name}' is '{text.decode()}'; send a whole"
    ):
        read(**{name: text})


MODEL_ID = "7d" * 32
SAID = {
    "config_name": "a@1",
    "strict": True,
    "reuse": False,
    "priority": 9,
    "deadline_s": 3600,
    "webhook_url": "https://example.com/hook",
}


def submission(**said):
    return read_submission(json.dumps({"model_id": MODEL_ID, **said}).encode())


def test_both_forms_say_the_same():
    form = {name: str(value).encode() for name, value in SAID.items()}
    form |= {name: str(SAID[name]).lower().encode() for name in FLAGS}
    assert submission(**SAID).wishes == read(**form) == JobOptions(**SAID)


def test_json_that_wishes_nothing():
    assert submission() == StoredModelRequest(MODEL_ID, None, JobOptions())
    assert submission(config=None, deadline_s=None) == submission()
    assert submission(sensitivities_id="5e" * 32).sensitivities_id == "5e" * 32


def test_config_is_taken_as_it_is():
    found = submission(config={"global_config": 7})
    assert found.wishes.config is None, "it is read with the model"
    assert found.config_sha256 == hashlib.sha256(b'{"global_config": 7}').hexdigest()


@pytest.mark.parametrize(
    ("said", "pointers"),
    [
        ({"model_id": "A" * 64}, ["/model_id"]),
        ({"model_id": None, "priority": 10}, ["/model_id", "/priority"]),
        ({"priority": "5"}, ["/priority"]),
        ({"strict": "true", "deadline_s": 0}, ["/strict", "/deadline_s"]),
        ({"deadline_s": 2_592_001}, ["/deadline_s"]),
        ({"model": "x", "webhook_url": "x" * 2049}, ["/webhook_url", "/model"]),
    ],
)
def test_json_with_faults_names_every_field(said, pointers):
    with pytest.raises(BadInput, match="the request is not valid") as told:
        submission(**said)
    assert [error.pointer for error in told.value.errors] == pointers


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"model_id: a", b'{"a": 1, "a": 2}', b"\xff", b"[" * 100_000]
)
def test_body_that_is_no_json_object(body):
    with pytest.raises(BadInput, match="the body is not a JSON object"):
        read_submission(body)
