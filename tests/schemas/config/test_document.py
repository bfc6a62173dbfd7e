import json

import pytest

from palettery.schemas.config import ConfigError, parse_config, w4, w8
from palettery.schemas.config.limits import (
    MAX_CONFIG_BYTES,
    MAX_DEPTH,
    MAX_ERRORS,
    MAX_TEXT_LENGTH,
    MAX_VALUES,
)


def faults(text):
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return {error.pointer: error.detail for error in caught.value.errors}


def test_json_yaml_file_form_and_bare_form_mean_the_same():
    config = w4().set_module_name("z.*", None).set_module_name("a.*", w8().global_config)
    bare = json.dumps(config.model_dump(mode="json"))
    for text in (config.to_json(), config.to_yaml(), bare, "\ufeff" + bare, bare.encode()):
        parsed = parse_config(text)
        assert parsed == config
        assert list(parsed.module_name_configs) == ["z.*", "a.*"]


def test_yaml_anchors_beside_the_config():
    parsed = parse_config("""
        palettization_spec: {two: &two {n_bits: 2}}
        kmeans_palettization_config:
          global_config: {op_state_spec: {weight: *two}}
    """)
    assert parsed.global_config.op_state_spec["weight"].n_bits == 2


def test_every_fault_is_told_at_once():
    faults_by_pointer = faults(
        '{"global_config": {"op_state_spec": {"weight": {"n_bits": 5, "cluster_dm": 1}}},'
        ' "module_name_configs": {"a/b": {"rounding_precision": 0}}}'
    )
    weight = "/global_config/op_state_spec/weight"
    assert faults_by_pointer == {
        f"{weight}/n_bits": "n_bits must be one of 1, 2, 3, 4, 6, 8; got 5",
        f"{weight}/cluster_dm": "unknown key 'cluster_dm'; did you mean 'cluster_dim'?",
        "/module_name_configs/a~1b/rounding_precision": (
            "rounding_precision must be at least 1; got 0"
        ),
    }


def test_pointers_lead_into_the_document_that_was_sent():
    faults_by_pointer = faults("kmeans_palettization_config: {global_confg: null}")
    assert faults_by_pointer == {
        "/kmeans_palettization_config/global_confg": (
            "unknown key 'global_confg'; did you mean 'global_config'?"
        )
    }


def test_a_far_off_key_lists_the_allowed_ones():
    faults_by_pointer = faults("global_config: {op_state_spec: {weight: {zzz: 1}}}")
    assert "allowed are n_bits" in faults_by_pointer["/global_config/op_state_spec/weight/zzz"]


@pytest.mark.parametrize(
    ("field", "value", "detail"),
    [
        ("n_bits", "4", "n_bits must be one of 1, 2, 3, 4, 6, 8; got '4'"),
        ("n_bits", None, "n_bits must be one of 1, 2, 3, 4, 6, 8; got None"),
        ("cluster_dim", 0, "cluster_dim must be at least 1; got 0"),
        ("cluster_dim", 1.5, "cluster_dim must be a whole number; got 1.5"),
        ("cluster_dim", 2**63, f"cluster_dim must be at most {2**63 - 1}; got {2**63}"),
        ("cluster_dim", "x" * 99, f"cluster_dim must be a whole number; got '{'x' * 27}..."),
        ("enable_per_channel_scale", "perhaps", "enable_per_channel_scale must be true or false;"),
        ("granularity", "per_tensor", "granularity must be a mapping; got 'per_tensor'"),
        ("granularity", {}, "granularity must have type per_tensor or per_grouped_channel; got {}"),
        ("lut_qspec", [], "lut_qspec must be a mapping; got []"),
    ],
)
def test_words(field, value, detail):
    spec = {"op_state_spec": {"weight": {field: value}}}
    faults_by_pointer = faults(json.dumps({"module_name_configs": {"a": spec}}))
    [(place, message)] = faults_by_pointer.items()
    assert place == f"/module_name_configs/a/op_state_spec/weight/{field}"
    assert message.startswith(detail)


@pytest.mark.parametrize(
    ("lut", "place", "detail"),
    [
        ({"dtype": "int4"}, "dtype", "one of int8, uint8, float8_e4m3fn, float8_e5m2; got 'int4'"),
        ({"dtype": "float8_e5m2", "qscheme": "asymmetric"}, "qscheme", "must be symmetric with"),
        ({"scale_dtype": "float8_e8m0fnu"}, "scale_dtype", "must be null with dtype int8"),
        ({"float_range": [1, None]}, "float_range", "min <= 0 <= max"),
        ({"float_range": [None]}, "float_range/1", "float_range[1] is missing"),
        ({"float_range": ["a", None]}, "float_range/0", "float_range[0] must be a number; got 'a'"),
        ({"float_range": [1, 2, 3]}, "float_range", "a list of 2; got [1, 2, 3]"),
        ({"float_range": 1}, "float_range", "float_range must be a list; got 1"),
        ({"granularity": {"axs": 1}}, "granularity/axs", "did you mean 'axis'?"),
    ],
)
def test_words_of_lut_quantization(lut, place, detail):
    spec = {"weight": {"lut_qspec": lut}}
    faults_by_pointer = faults(json.dumps({"global_config": {"op_state_spec": spec}}))
    assert detail in faults_by_pointer[f"/global_config/op_state_spec/weight/lut_qspec/{place}"]


def test_names_of_the_language_as_keys_are_just_keys():
    grouped = {"type": "per_grouped_channel", "group_sise": 4}
    names = {"per_tensor": {"op_state_spec": {"[key]": {"granularity": grouped}}}}
    place = "/module_name_configs/per_tensor/op_state_spec/[key]/granularity"
    assert faults(json.dumps({"module_name_configs": names})) == {
        f"{place}/group_size": "group_size is missing",
        f"{place}/group_sise": "unknown key 'group_sise'; did you mean 'group_size'?",
    }


def test_faults_of_different_levels_are_told_together():
    faults_by_pointer = faults("""
        kmeans_palettization_config:
          global_config:
            op_state_spec: {weight: {cluster_dim: 2}, bias: {cluster_dim: 4}}
            op_input_spec: {"*": {}}
          module_type_configs: {Linear: null, Conv2d: {n_bits: 4}}
          module_name_configs: {1: null}
        palettization_specs: 1
        """)
    config = "/kmeans_palettization_config"
    assert faults_by_pointer == {
        "/palettization_specs": (
            "unknown key 'palettization_specs'; did you mean 'palettization_spec'?"
        ),
        f"{config}/global_config/enable_fast_kmeans_mode": (
            "enable_fast_kmeans_mode must be false (the default is true) where "
            "cluster_dim is above 1; got cluster_dim 2 for 'weight', 4 for 'bias'"
        ),
        f"{config}/global_config/op_input_spec": (
            "op_input_spec must be empty: only weights are palettized, never inputs or outputs of "
            "an operation or a module"
        ),
        f"{config}/module_type_configs/Linear": (
            "'Linear' is no fully qualified class name; write it like "
            "torch.nn.modules.linear.Linear"
        ),
        f"{config}/module_type_configs/Conv2d": (
            "'Conv2d' is no fully qualified class name; write it like "
            "torch.nn.modules.linear.Linear"
        ),
        f"{config}/module_type_configs/Conv2d/n_bits": (
            "unknown key 'n_bits'; allowed are op_input_spec, op_output_spec, op_state_spec, "
            "op_type_config, op_name_config, module_input_spec, module_output_spec, "
            "module_state_spec, enable_fast_kmeans_mode, rounding_precision, pat_schedule, "
            "vector_kmeans_config"
        ),
        f"{config}/module_name_configs/1": "keys must be text; got 1, which is text when quoted",
    }


def test_the_file_form_misspelt():
    assert faults("kmeans_palettization_confg: {}") == {
        "/kmeans_palettization_confg": (
            "unknown key 'kmeans_palettization_confg'; did you mean 'kmeans_palettization_config'?"
        )
    }
    assert faults("palettization_spec: {}") == {"": "kmeans_palettization_config is missing"}


@pytest.mark.parametrize(
    ("document", "key", "method"),
    [
        ("quantization_config: {global_config: null}", "quantization_config", "quantization"),
        ("magnitude_pruning_config: {}\npruning_spec: {}", "magnitude_pruning_config", "pruning"),
        (
            "kmeans_palettization_config: {}\nquantization_config: {}",
            "quantization_config",
            "quantization",
        ),
    ],
)
def test_files_of_other_methods_are_recognized(document, key, method):
    assert faults(document) == {
        f"/{key}": f"{key} is coreai-opt's config for {method}, which Palettery does not do: it "
        "only palettizes weights; send a kmeans_palettization_config"
    }


def test_faults_of_the_settings_that_0_4_added():
    told = faults("""
        global_config:
          op_state_spec: {weight: {sparsity_detection_treshold: 1, cluster_dim: 2}}
          enable_fast_kmeans_mode: false
          vector_kmeans_config: {n_inti: 3, max_iter: 0, tol: .nan}
        module_name_configs: {a: {vector_kmeans_config: {}}}
        """)
    vectors = "/global_config/vector_kmeans_config"
    assert told == {
        "/global_config/op_state_spec/weight/sparsity_detection_treshold": (
            "unknown key 'sparsity_detection_treshold'; did you mean "
            "'sparsity_detection_threshold'?"
        ),
        f"{vectors}/n_inti": "unknown key 'n_inti'; did you mean 'n_init'?",
        f"{vectors}/max_iter": "max_iter must be at least 1; got 0",
        f"{vectors}/tol": "tol must be at least 0.0; got nan",
        "/module_name_configs/a/vector_kmeans_config": (
            "vector_kmeans_config is for vector palettes, but no spec of this rule has a "
            "cluster_dim above 1; leave it out, or set a cluster_dim"
        ),
    }


def test_faults_beyond_many_are_counted():
    names = {f"name{number}": 0 for number in range(MAX_ERRORS + 5)}
    faults_by_pointer = faults(json.dumps({"module_name_configs": names}))
    assert len(faults_by_pointer) == MAX_ERRORS + 1
    assert faults_by_pointer[""] == "and 5 more errors"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "must be a mapping"),
        ("- 1", "must be a mapping"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        (
            "global_config: [",
            "not valid YAML: while parsing a flow node did not find expected node content at line",
        ),
        ("global_config: *nowhere", "not valid YAML"),
        ('{"global_config": ]', "neither JSON"),
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ("a: 1\na: 2", "'a' occurs twice in line 2"),
        ("a: 1\n'a': 2", "'a' occurs twice in line 2"),
        ("? [1, 2]\n: 3", "keys must be text"),
        ("a: " + ":".join(["59"] * 1000), "base 60"),
        ("!!python/object/apply:os.system [ls]", "tags are not allowed"),
        ("a: !!binary x", "tags are not allowed"),
        ("%YAML 1.1\n---\na: 1", "directives are not allowed"),
        ("# c\r%TAG !a! x\r---\ra: 1", "directives are not allowed"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ("a: \ud800", "not UTF-8"),
        ('{"module_name_configs": {"\\ud800": null}}', "lone surrogate"),
        ('{"a": ' + "1" * 5000 + "}", "too many digits"),
        ("a: " + "1" * 5000, "not valid YAML"),
        ("a: " + "x" * (MAX_TEXT_LENGTH + 1), f"{MAX_TEXT_LENGTH:,} are allowed"),
        ("global_config: {rounding_precision: 0x" + "f" * 5000 + "}", "an integer of 20,000 bits"),
        ('{"a":' * 100_000, "nested deeper"),
        ("a: " + "[" * 300_000, "nested deeper"),
        ("- " * 300_000, "nested deeper"),
        ("{a: " * 100_000, "nested deeper"),
        ("a: &a {b: *a}", "inside the node that it refers to"),
        ("a: &a\n  <<: *a", "inside the node that it refers to"),
        ("x" * (MAX_CONFIG_BYTES + 1), f"{MAX_CONFIG_BYTES:,} are allowed"),
        (json.dumps({"a": [0] * MAX_VALUES}), f"over {MAX_VALUES:,} values"),
        ("{1: 2}", "1"),
    ],
)
def test_broken_documents(text, expected):
    assert expected in " ".join(f"{k} {v}" for k, v in faults(text).items())


@pytest.mark.parametrize(
    "nested",
    [
        lambda depth: json.dumps({"a": _lists(depth - 1)}),
        lambda depth: "a: " + "[" * (depth - 1) + "x" + "]" * (depth - 1),
        lambda depth: "\n".join(f"{'  ' * level}a:" for level in range(depth)),
        lambda depth: f"a: &a {'[' * (depth - 3)}{']' * (depth - 3)}\nb: {{c: {{d: *a}}}}",
    ],
)
def test_the_deepest_documents_allowed(nested):
    assert "nested deeper" not in str(faults(nested(MAX_DEPTH)))
    assert faults(nested(MAX_DEPTH + 1)) == {
        "": f"the document is nested deeper than {MAX_DEPTH} levels"
    }


def _lists(depth):
    return [_lists(depth - 1)] if depth else 0


@pytest.mark.parametrize("row", ["[{}]", "{{<<: [{}]}}"])
def test_an_alias_bomb_is_refused_before_it_goes_off(row):
    rows = ["a0: &a0 {k: 1, l: 2}"]
    rows += [f"a{n}: &a{n} " + row.format(", ".join([f"*a{n - 1}"] * 10)) for n in range(1, 12)]
    assert "with aliases expanded" in faults("\n".join(rows))[""]


def test_yaml_merges_override():
    parsed = parse_config("""
        global_config:
          op_state_spec:
            weight: &fine {<<: &base {n_bits: 8, cluster_dim: 1}, n_bits: 6}
            bias: {<<: [*fine, *base]}
            in_proj_weight: *base
        """)
    bits = {name: spec.n_bits for name, spec in parsed.global_config.op_state_spec.items()}
    assert bits == {"weight": 6, "bias": 6, "in_proj_weight": 8}
