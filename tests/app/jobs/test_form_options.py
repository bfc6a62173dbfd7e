"""Job options in forms: what is accepted, and the messages about what is not."""

import json
import re

import pytest

from palettery.app.errors import InvalidUpload
from palettery.app.jobs.form_options import form_properties, read_form_options
from palettery.schemas.exports import EXPORT_FORMATS
from palettery.schemas.job_options import JobOptions
from palettery.schemas.targets import Choices, Target

FLAGS = ["strict", "reuse", "keep_dense"]
NUMBERS = {"priority": "0 to 9", "deadline_s": "1 to 2,592,000"}


def read(**fields):
    return read_form_options(fields)


def test_form_without_options():
    assert read() == JobOptions(strict=False, reuse=True, priority=5, deadline_s=None)


def test_every_option():
    fields = {"strict": b"true", "reuse": b"false", "priority": b"9", "deadline_s": b"3600"}
    fields |= {"preset": b"w4", "label": "größe".encode(), "formats": b"torchao,dense,dense"}
    assert read(**fields) == JobOptions(
        preset="w4",
        label="größe",
        strict=True,
        reuse=False,
        priority=9,
        deadline_s=3600,
        formats=("dense", "torchao"),
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("priority", b"0", 0),
        ("priority", b"007", 7),
        ("deadline_s", b"1", 1),
        ("deadline_s", b"2592000", 30 * 86_400),
        ("strict", b"false", False),
        ("reuse", b"true", True),
        ("label", b"", None),
        ("formats", b"", ()),
        ("preset", b"", ""),
    ],
)
def test_limits_of_what_is_allowed(name, text, value):
    assert getattr(read(**{name: text}), name) == value


@pytest.mark.parametrize("text", [b"", b"True", b"1", b"yes", b" true", b"true\n", b"\xff"])
@pytest.mark.parametrize("name", FLAGS)
def test_flag_that_is_neither(name, text):
    with pytest.raises(InvalidUpload) as caught:
        read(**{name: text})
    got = repr(text.decode(errors="replace"))
    assert caught.value.detail == f"the field {name!r} is {got}; send true or false"


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
    with pytest.raises(InvalidUpload) as caught:
        read(**{name: text})
    got = repr(text[:64].decode(errors="replace"))
    expected = f"the field {name!r} is {got}; send a whole number from {NUMBERS[name]}"
    assert caught.value.detail == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [("priority", b"10"), ("deadline_s", b"0"), ("deadline_s", b"2592001")],
)
def test_numbers_just_out_of_range(name, text):
    with pytest.raises(
        InvalidUpload, match=f"the field '{name}' is '{text.decode()}'; send a whole"
    ):
        read(**{name: text})


@pytest.mark.parametrize("text", [b"tflite", b"dense,", b"dense, torchao", b"Dense"])
def test_unknown_format(text):
    with pytest.raises(InvalidUpload) as caught:
        read(formats=text)
    assert caught.value.detail == (
        f"the field 'formats' is {text.decode()!r}; send names of "
        f"{', '.join(EXPORT_FORMATS)}, with commas between them"
    )


def test_label_and_text_that_are_too_long():
    with pytest.raises(
        InvalidUpload, match=r"the field 'label': .* is not a valid label; send one line of"
    ):
        read(label=b"a\nb")
    with pytest.raises(InvalidUpload, match=r"the field 'webhook_url' .* at most 2,048 characters"):
        read(webhook_url=b"x" * 2049)


def test_every_field_at_fault_is_named():
    with pytest.raises(InvalidUpload) as caught:
        read(strict=b"yes", priority=b"10")
    assert caught.value.detail == (
        "the field 'strict' is 'yes'; send true or false; "
        "the field 'priority' is '10'; send a whole number from 0 to 9"
    )


def test_openapi_of_the_form():
    properties = form_properties()
    assert list(properties) == list(JobOptions.model_fields)
    assert all(properties[name]["description"] for name in properties)
    assert properties["reuse"]["enum"] == ["true", "false"]
    assert properties["reuse"]["default"] == "true"
    priority = properties["priority"]
    assert (priority["type"], priority["minimum"], priority["maximum"]) == ("integer", 0, 9)
    assert properties["webhook_url"]["maxLength"] == 2048
    pattern = re.compile(properties["formats"]["pattern"])
    assert pattern.search("dense")
    assert pattern.search("dense,torchao,coreml")
    assert not pattern.search("dense,")


def test_targets_and_choices():
    options = read(target=b"16MB", choices=b'{"n_bits": [2, 4], "same": [["q", "k"]]}')
    assert options.target == Target(size_bytes=16_000_000)
    assert options.choices == Choices(n_bits=(2, 4), same=(["q", "k"],))
    with pytest.raises(InvalidUpload, match="the field 'target': the target '16' is no number"):
        read(target=b"16")
    with pytest.raises(InvalidUpload, match="'choices' is 'n_bits'; send a JSON object with n_b"):
        read(choices=b"n_bits")
    with pytest.raises(
        InvalidUpload, match=r"the field 'choices': n_bits\.0: Input should be 1, 2"
    ):
        read(choices=b'{"n_bits": [5]}')


def test_an_object_is_json():
    inputs = "a" * 64
    text = json.dumps({"inputs_id": inputs, "at_least": {"cosine": 1}}).encode()
    evaluate = read_form_options({"evaluate": text}).evaluate
    assert (evaluate.inputs_id, evaluate.at_least.cosine) == (inputs, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "no JSON",
            "the field 'evaluate' is 'no JSON'; send a JSON object with at_least, inputs_id",
        ),
        ("[1]", "the field 'evaluate' is '[1]'; send a JSON object with at_least, inputs_id"),
        ("{}", "the field 'evaluate': inputs_id: Field required"),
        ('{"inputs_id": "%s", "at_least": {"cosine": 2}}' % ("a" * 64), "at_least.cosine: Input"),
    ],
)
def test_an_object_that_is_wrong(text, said):
    with pytest.raises(InvalidUpload) as caught:
        read_form_options({"evaluate": text.encode()})
    assert said in caught.value.detail
