import pytest
from jsonschema import Draft202012Validator

from palettery.schemas.config import KMeansPalettizerConfig, PalettizationSpec, w4
from palettery.schemas.json_schema import MODELS, SCHEMA_NAMES, json_schema


def objects(schema):
    """A schema and all that it defines, by name."""
    return {"": schema, **schema.get("$defs", {})}.items()


@pytest.mark.parametrize("name", SCHEMA_NAMES)
def test_schemas_are_valid_closed_and_described(name):
    schema = json_schema(name)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for model, definition in objects(schema):
        assert definition["description"], model
        assert definition["additionalProperties"] is False, model
        for field, described in definition.get("properties", {}).items():
            assert described.get("description"), f"{model}.{field}"


def test_what_there_is():
    assert {"KMeansPalettizerConfig", "PalettizationSpec", "Plan", "Report", "Job", "Problem"} <= (
        set(SCHEMA_NAMES)
    )
    with pytest.raises(KeyError):
        json_schema("Nothing")
    assert set(MODELS) == set(SCHEMA_NAMES)


def vectors(settings):
    """A config of vector palettes of sparse weights, with these K-means settings."""
    spec = {"cluster_dim": 2, "sparsity_detection_threshold": 0.5}
    module = {"op_state_spec": {"*": spec}, "enable_fast_kmeans_mode": False}
    return {"global_config": {**module, "vector_kmeans_config": settings}}


CONFIG = Draft202012Validator(json_schema("KMeansPalettizerConfig"))


@pytest.mark.parametrize(
    "config",
    [
        w4().model_dump(mode="json"),
        {},
        {"global_config": None, "module_type_configs": None, "module_name_configs": None},
        {"global_config": {"op_input_spec": {"*": None}, "op_type_config": None}},
        vectors(None),
        vectors({"n_local_trials": None, "tol": "Infinity"}),
        vectors({"n_init": 1, "max_iter": 1, "tol": 0}),
        {"module_name_configs": {"a": {"module_state_spec": None, "op_state_spec": {"*": None}}}},
    ],
)
def test_schema_and_model_accept(config):
    CONFIG.validate(config)
    KMeansPalettizerConfig.model_validate(config)


@pytest.mark.parametrize(
    "spec",
    [
        {"n_bits": 5},
        {"n_bit": 4},
        {"cluster_dim": 0},
        {"cluster_dim": 2**63},
        {"granularity": {}},
        {"granularity": {"type": "per_channel"}},
        {"granularity": {"type": "per_tensor", "group_size": 4}},
        {"granularity": {"type": "per_grouped_channel"}},
        {"sparsity_detection_threshold": 1.5},
        {"lut_qspec": {"qscheme": "affine"}},
        {"lut_qspec": {"float_range": [None]}},
    ],
)
def test_schema_and_model_refuse(spec):
    assert not Draft202012Validator(json_schema("PalettizationSpec")).is_valid(spec)
    with pytest.raises(ValueError, match="validation error"):
        PalettizationSpec.model_validate(spec)
