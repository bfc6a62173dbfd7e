"""Whatever config there is, it comes back the same out of every form it is written in."""

import contextlib
import json

from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from palettery.schemas.config import (
    ConfigError,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    OpKMeansPalettizerConfig,
    PalettizationSpec,
    PerGroupedChannelGranularity,
    PerTensorGranularity,
    QuantizationSpec,
    VectorKMeansConfig,
    parse_config,
)
from palettery.schemas.json_schema import json_schema

NAMES = st.text(max_size=12) | st.sampled_from(
    ["*", "weight", "1", "null", "yes", "<<", "%a", "a:"]
)
LOW = st.none() | st.floats(-1e6, 0, exclude_max=True)
HIGH = st.none() | st.floats(0, 1e6)
COUNTS = st.integers(1, 2**63 - 1)


def maybe(strategy):
    return st.none() | strategy


def integer_luts():
    return st.builds(
        QuantizationSpec,
        dtype=st.sampled_from(["int8", "uint8"]),
        qscheme=st.sampled_from(["symmetric", "symmetric_with_clipping", "asymmetric"]),
        qparam_calculator_cls=st.sampled_from(["default", "static"]),
        float_range=st.tuples(LOW, HIGH),
    )


def float8_luts():
    return st.builds(
        QuantizationSpec,
        dtype=st.sampled_from(["float8_e4m3fn", "float8_e5m2"]),
        scale_dtype=st.sampled_from([None, "float8_e8m0fnu"]),
    )


SPECS = st.builds(
    PalettizationSpec,
    n_bits=st.sampled_from([1, 2, 3, 4, 6, 8]),
    granularity=st.just(PerTensorGranularity())
    | st.builds(
        PerGroupedChannelGranularity, group_size=COUNTS, axis=st.sampled_from([None, 0, 1])
    ),
    cluster_dim=COUNTS,
    enable_per_channel_scale=st.booleans(),
    lut_qspec=maybe(integer_luts() | float8_luts()),
    sparsity_detection_threshold=maybe(st.floats(0, 1)),
)
STATES = st.dictionaries(NAMES, maybe(SPECS), max_size=2)
OPS = st.dictionaries(
    NAMES, maybe(st.builds(OpKMeansPalettizerConfig, op_state_spec=maybe(STATES))), max_size=2
)


def modules(states=STATES):
    return st.builds(
        ModuleKMeansPalettizerConfig,
        op_state_spec=maybe(STATES),
        op_type_config=OPS,
        op_name_config=OPS,
        module_state_spec=states,
        enable_fast_kmeans_mode=st.just(False),
        rounding_precision=COUNTS,
    ) | st.builds(
        ModuleKMeansPalettizerConfig,
        op_state_spec=st.just({"*": PalettizationSpec(cluster_dim=2)}),
        enable_fast_kmeans_mode=st.just(False),
        vector_kmeans_config=st.builds(
            VectorKMeansConfig,
            n_local_trials=maybe(COUNTS),
            n_init=COUNTS,
            max_iter=COUNTS,
            tol=st.floats(0),
        ),
    )


CONFIGS = st.builds(
    KMeansPalettizerConfig,
    global_config=maybe(modules(states=st.just({}))),
    module_type_configs=st.dictionaries(NAMES.map("a.{}".format), maybe(modules()), max_size=2),
    module_name_configs=st.dictionaries(NAMES, maybe(modules()), max_size=4),
)
JSON_SCHEMA = Draft202012Validator(json_schema("KMeansPalettizerConfig"))


def in_order(config):
    """Equal only where the keys of every mapping come in the same order too."""
    return json.dumps(config.to_dict())


@settings(max_examples=15, deadline=None)
@given(CONFIGS)
def test_every_form_comes_back(config):
    bare = config.model_dump(mode="json")
    JSON_SCHEMA.validate(bare)
    for back in (
        KMeansPalettizerConfig.from_dict(config.to_dict()),
        KMeansPalettizerConfig.from_json(config.to_json()),
        parse_config(config.to_json()),
        parse_config(config.to_yaml()),
        parse_config(json.dumps(bare)),
        KMeansPalettizerConfig.model_validate_json(config.model_dump_json()),
    ):
        assert back == config
        assert in_order(back) == in_order(config)


@settings(max_examples=100, deadline=None)
@given(st.text() | st.binary(max_size=200))
def test_any_text_is_a_config_or_raises_a_config_error(text):
    with contextlib.suppress(ConfigError):
        parse_config(text)


def test_files(tmp_path):
    config = KMeansPalettizerConfig().set_module_name("z", None).set_module_name("a", None)
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    with path.open() as opened:
        assert KMeansPalettizerConfig.from_yaml(opened) == config
    assert KMeansPalettizerConfig.from_yaml(path) == config
    assert KMeansPalettizerConfig.from_yaml(str(path)) == config
