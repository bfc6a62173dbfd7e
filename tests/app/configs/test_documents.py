"""Parsing of config documents: one form of all equal ones, and where errors are."""

import json

import pytest
import yaml

from palettery.app.configs.documents import (
    ConfigDocument,
    NormalizedConfig,
    normalize,
    read_config,
    validate,
)
from palettery.app.errors import InvalidConfig, TooLarge
from palettery.schemas.config import KMeansPalettizerConfig, w4
from palettery.schemas.configs import ValidatedConfig

MAX_BYTES = 1 << 20
WRONG = """\
global_config:
  op_state_spec:
    weight:
      n_bits: 5
      grnularity: {type: per_tensor}
module_name_configs:
  "a/b": {op_state_spec: {weight: {n_bits: 4, lut_dtype: float9}}}
"""
ERRORS = {
    "/global_config/op_state_spec/weight/n_bits": 4,
    "/global_config/op_state_spec/weight/grnularity": 5,
    "/module_name_configs/a~1b/op_state_spec/weight/lut_dtype": 7,
}


def validated(text, language="yaml"):
    return ValidatedConfig.model_validate_json(validate(ConfigDocument(text.encode(), language)))


def test_equal_documents_have_one_normal_form():
    forms = [w4().to_yaml(), w4().to_json(), w4().model_dump_json()]
    result = {normalize(ConfigDocument(text), MAX_BYTES) for text in forms}
    assert len(result) == 1
    assert (
        KMeansPalettizerConfig.model_validate_json(
            NormalizedConfig.from_content(result.pop()).document
        )
        == w4()
    )


def test_every_error_at_once_with_its_line():
    result = validated(WRONG)
    assert not result.is_valid
    assert {error.pointer: error.line for error in result.errors} == ERRORS
    assert (result.config, result.json_text, result.yaml_text) == (None, None, None)


def test_lines_of_json_too():
    result = validated(
        '{"global_config":\n {"op_state_spec":\n  {"weight": {\n"n_bits": 5}}}}', "json"
    )
    assert [(error.pointer, error.line) for error in result.errors] == [
        ("/global_config/op_state_spec/weight/n_bits", 4)
    ]


def test_valid_document_comes_back_in_full():
    result = validated(w4().to_yaml())
    assert result.is_valid
    assert result.errors == ()
    assert result.config == w4()
    assert read_config(ConfigDocument(result.json_text, "json")) == w4()
    assert read_config(ConfigDocument(result.yaml_text)) == w4()


def test_json_is_strict():
    assert validated("global_config: null").is_valid
    (error,) = validated("global_config: null", "json").errors
    assert error.detail.startswith("the document is not valid JSON")


def test_errors_of_a_document_within_another():
    inner = ConfigDocument('{"config": {"global_config": 1}}', "json", member="config")
    with pytest.raises(InvalidConfig) as caught:
        read_config(inner)
    (error,) = caught.value.errors
    assert (error.pointer, error.line) == ("/config/global_config", None)


@pytest.mark.parametrize("text", ["", "[]", "a: *a", "\xff", "{" * 100])
def test_documents_that_are_no_mapping(text):
    assert [error.pointer for error in validated(text).errors] == [""]


BAD_PATTERNS = """\
module_name_configs:
  "encoder\\\\..*": null
  "a(b": null
  "ok":
    op_name_config:
      "*x": null
"""


def test_every_invalid_pattern_with_its_line():
    result = validated(BAD_PATTERNS)
    assert not result.is_valid
    assert {error.pointer: error.line for error in result.errors} == {
        "/module_name_configs/a(b": 3,
        "/module_name_configs/ok/op_name_config/*x": 6,
    }
    inner = json.dumps({"config": yaml.safe_load(BAD_PATTERNS)})
    with pytest.raises(InvalidConfig, match="2 fields are wrong") as caught:
        normalize(ConfigDocument(inner, "json", member="config"), MAX_BYTES)
    assert [error.pointer for error in caught.value.errors] == [
        "/config/module_name_configs/a(b",
        "/config/module_name_configs/ok/op_name_config/*x",
    ]


def test_limit_counts_the_bytes_with_all_defaults():
    document = ConfigDocument(
        json.dumps({"module_name_configs": {f"m{n}": {} for n in range(100)}})
    )
    size_bytes = len(NormalizedConfig.from_content(normalize(document, MAX_BYTES)).document)
    assert size_bytes > 10 * len(document.text)
    assert normalize(document, size_bytes)
    with pytest.raises(TooLarge, match=f"has {size_bytes:,} bytes .* PALETTERY_LIMIT_CONFIG_BYTES"):
        normalize(document, size_bytes - 1)
