"""Documents as what they say: one form of all that say the same, and where their faults stand."""

import json

import pytest
import yaml

from palettery.app.configs.documents import (
    ConfigDocument,
    NormalizedConfig,
    normalised,
    read_config,
    validated,
)
from palettery.app.errors import InvalidConfig, TooLarge
from palettery.schemas.config import KMeansPalettizerConfig, w4
from palettery.schemas.configs import ValidatedConfig

MOST_BYTES = 1 << 20
WRONG = """\
global_config:
  op_state_spec:
    weight:
      n_bits: 5
      grnularity: {type: per_tensor}
module_name_configs:
  "a/b": {op_state_spec: {weight: {n_bits: 4, lut_dtype: float9}}}
"""
FAULTS = {
    "/global_config/op_state_spec/weight/n_bits": 4,
    "/global_config/op_state_spec/weight/grnularity": 5,
    "/module_name_configs/a~1b/op_state_spec/weight/lut_dtype": 7,
}


def told(text, language="yaml"):
    return ValidatedConfig.model_validate_json(validated(ConfigDocument(text.encode(), language)))


def test_documents_that_say_the_same_have_one_form():
    forms = [w4().to_yaml(), w4().to_json(), w4().model_dump_json()]
    found = {normalised(ConfigDocument(text), MOST_BYTES) for text in forms}
    assert len(found) == 1
    assert (
        KMeansPalettizerConfig.model_validate_json(NormalizedConfig.of(found.pop()).document)
        == w4()
    )


def test_every_fault_at_once_with_its_place():
    found = told(WRONG)
    assert not found.is_valid
    assert {fault.pointer: fault.line for fault in found.errors} == FAULTS
    assert (found.config, found.json_text, found.yaml_text) == (None, None, None)


def test_lines_of_json_too():
    found = told('{"global_config":\n {"op_state_spec":\n  {"weight": {\n"n_bits": 5}}}}', "json")
    assert [(fault.pointer, fault.line) for fault in found.errors] == [
        ("/global_config/op_state_spec/weight/n_bits", 4)
    ]


def test_valid_document_comes_back_in_full():
    found = told(w4().to_yaml())
    assert found.is_valid
    assert found.errors == ()
    assert found.config == w4()
    assert read_config(ConfigDocument(found.json_text, "json")) == w4()
    assert read_config(ConfigDocument(found.yaml_text)) == w4()


def test_json_is_strict():
    assert told("global_config: null").is_valid
    (fault,) = told("global_config: null", "json").errors
    assert fault.detail.startswith("the document is not valid JSON")


def test_faults_of_a_document_within_another():
    inner = ConfigDocument('{"config": {"global_config": 1}}', "json", member="config")
    with pytest.raises(InvalidConfig) as refused:
        read_config(inner)
    (fault,) = refused.value.errors
    assert (fault.pointer, fault.line) == ("/config/global_config", None)


@pytest.mark.parametrize("text", ["", "[]", "a: *a", "\xff", "{" * 100])
def test_documents_that_are_no_mapping(text):
    assert [fault.pointer for fault in told(text).errors] == [""]


BAD_PATTERNS = """\
module_name_configs:
  "encoder\\\\..*": null
  "a(b": null
  "ok":
    op_name_config:
      "*x": null
"""


def test_every_pattern_that_is_none_with_its_place():
    found = told(BAD_PATTERNS)
    assert not found.is_valid
    assert {fault.pointer: fault.line for fault in found.errors} == {
        "/module_name_configs/a(b": 3,
        "/module_name_configs/ok/op_name_config/*x": 6,
    }
    inner = json.dumps({"config": yaml.safe_load(BAD_PATTERNS)})
    with pytest.raises(InvalidConfig, match="2 fields are wrong") as caught:
        normalised(ConfigDocument(inner, "json", member="config"), MOST_BYTES)
    assert [fault.pointer for fault in caught.value.errors] == [
        "/config/module_name_configs/a(b",
        "/config/module_name_configs/ok/op_name_config/*x",
    ]


def test_config_that_grows_by_its_defaults_is_refused_by_what_it_becomes():
    document = ConfigDocument(
        json.dumps({"module_name_configs": {f"m{n}": {} for n in range(100)}})
    )
    size_bytes = len(NormalizedConfig.of(normalised(document, MOST_BYTES)).document)
    assert size_bytes > 10 * len(document.text)
    assert normalised(document, size_bytes)
    with pytest.raises(TooLarge, match=f"has {size_bytes:,} bytes .* PALETTERY_LIMIT_CONFIG_BYTES"):
        normalised(document, size_bytes - 1)
