import subprocess
import sys
from enum import Enum

import pytest
from pydantic import ValidationError

from palettery.schemas.config import (
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    OpKMeansPalettizerConfig,
    PalettizationSpec,
    PerGroupedChannelGranularity,
    PerTensorGranularity,
    QuantizationFormulation,
    QuantizationScheme,
    QuantizationSpec,
    w4,
    w6,
    w8,
)


def test_left_out_means_four_bits_and_none_means_off():
    assert ModuleKMeansPalettizerConfig().op_state_spec == {
        "weight": PalettizationSpec(n_bits=4, granularity=PerTensorGranularity()),
        "in_proj_weight": PalettizationSpec(n_bits=4, granularity=PerTensorGranularity()),
    }
    assert ModuleKMeansPalettizerConfig(op_state_spec=None).op_state_spec is None
    assert ModuleKMeansPalettizerConfig(op_state_spec={}).op_state_spec == {}
    assert KMeansPalettizerConfig().global_config == ModuleKMeansPalettizerConfig()
    assert KMeansPalettizerConfig(global_config=None).global_config is None


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"n_bits": 5}, "n_bits"),
        ({"n_bits": "4"}, "n_bits"),
        ({"cluster_dim": 0}, "cluster_dim"),
        ({"granularity": {"type": "per_tensor", "axis": 1}}, "axis"),
        ({"granularity": {"type": "per_grouped_channel"}}, "group_size"),
        ({"granularity": {"type": "per_grouped_channel", "group_size": 4, "axis": 2}}, "axis"),
        ({"granularity": {"type": "per_grouped_channel", "group_size": 0}}, "group_size"),
        ({"granularity": {"group_size": 4}}, "granularity"),
        ({"bits": 4}, "bits"),
        *(
            ({"sparsity_detection_threshold": wrong}, "sparsity_detection_threshold")
            for wrong in (-0.1, 1.001, float("nan"), float("inf"), "half", [])
        ),
    ],
)
def test_spec_refuses(fields, place):
    with pytest.raises(ValidationError) as caught:
        PalettizationSpec.model_validate(fields)
    assert place in {step for error in caught.value.errors() for step in error["loc"]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "int4"}, "dtype"),
        ({"dtype": "float8_e4m3fn", "qscheme": "asymmetric"}, "must be symmetric"),
        ({"dtype": "int8", "scale_dtype": "float8_e8m0fnu"}, "must be null with dtype int8"),
        ({"float_range": [1, 2]}, "min <= 0"),
        ({"float_range": [-2, -1]}, "0 <= max"),
        ({"float_range": [0, 0]}, "min < max"),
        ({"float_range": [float("nan"), None]}, "finite"),
        ({"float_range": [None, float("inf")]}, "finite"),
        ({"float_range": [True, None]}, "number"),
        ({"qparam_calculator_cls": "dynamic", "qscheme": "symmetric_with_clipping"}, "dynamic"),
        ({"qparam_calculator_cls": "mean"}, "qparam_calculator_cls"),
        ({"qformulation": "minval"}, "qformulation"),
        ({"granularity": {"type": "per_channel", "axis": 0}}, "granularity"),
    ],
)
def test_lut_quantization_refuses(fields, message):
    with pytest.raises(ValidationError, match=message):
        QuantizationSpec.model_validate(fields)


def test_lut_quantization_understands_coreai_opts_names_and_dumps():
    dumped = {
        "dtype": "torch.float8_e4m3fn",
        "scale_dtype": "torch.float8_e8m0fnu",
        "n_bits": 8,
        "target_dtype": "torch.float8_e4m3fn",
        "quant_min": -448.0,
        "quant_max": 448.0,
        "_quant_range": [-448.0, 448.0],
        "fake_quantize_cls": "<class 'coreai_opt.quantization._DefaultFakeQuantizeImpl'>",
        "qparam_calculator_cls": "<class 'coreai_opt.quantization.StaticQParamsCalculator'>",
        "range_calculator_cls": "minmax",
    }
    spec = QuantizationSpec.model_validate(dumped)
    assert (spec.dtype, spec.scale_dtype) == ("float8_e4m3fn", "float8_e8m0fnu")
    assert (spec.fake_quantize_cls, spec.qparam_calculator_cls) == ("default", "static")
    assert QuantizationSpec(dtype="float8_e4m3").dtype == "float8_e4m3fn"
    assert set(dumped) >= {"n_bits", "quant_min"}, "the caller's dict is left as it was"


def test_members_of_coreai_opts_enumerations_are_read_as_such_and_as_text():
    scheme = Enum("QuantizationScheme", {"ASYMMETRIC": "asymmetric"})
    for member in (scheme.ASYMMETRIC, str(scheme.ASYMMETRIC), QuantizationScheme.ASYMMETRIC):
        assert QuantizationSpec(qscheme=member).qscheme == "asymmetric"
    for wrong in ("asymmetri", "Scheme.ASYMMETRIC", "QuantizationScheme.AFFINE", scheme):
        with pytest.raises(ValidationError, match="qscheme"):
            QuantizationSpec(qscheme=wrong)
    with pytest.raises(ValidationError, match="qformulation"):
        QuantizationSpec(qformulation=QuantizationFormulation.MINVAL)


def test_vector_palettes_need_fast_mode_off():
    vectors = {"weight": PalettizationSpec(cluster_dim=2)}
    with pytest.raises(ValidationError, match="enable_fast_kmeans_mode must be false"):
        ModuleKMeansPalettizerConfig(op_state_spec=vectors)
    module = ModuleKMeansPalettizerConfig(op_state_spec=vectors, enable_fast_kmeans_mode=False)
    assert module.op_state_spec == vectors


@pytest.mark.parametrize("field", ["op_input_spec", "module_output_spec"])
@pytest.mark.parametrize("nothing", [None, {}, {"*": None, "x": None}])
def test_activation_fields_may_only_say_nothing(field, nothing):
    assert getattr(ModuleKMeansPalettizerConfig(**{field: nothing}), field) == {}
    with pytest.raises(ValidationError, match="only weights"):
        ModuleKMeansPalettizerConfig(**{field: {"*": {}}})


def test_module_level_rules():
    with pytest.raises(ValidationError, match=r"torch\.nn\.modules\.linear\.Linear"):
        KMeansPalettizerConfig(module_type_configs={"Linear": None})
    with pytest.raises(ValidationError, match="belongs to one module"):
        KMeansPalettizerConfig(
            global_config=ModuleKMeansPalettizerConfig(module_state_spec={"weight": None})
        )
    module = ModuleKMeansPalettizerConfig(op_type_config=None, module_state_spec=None)
    assert (module.op_type_config, module.module_state_spec) == ({}, {})


class Encoder:
    pass


def test_builders_change_the_config_and_return_it():
    config, rule = w4(), w4().global_config
    assert config.without("head") is config
    assert config.only_for("encoder.*", Encoder) is config
    assert config.global_config is None
    assert config.module_name_configs == {"head": None, "encoder.*": rule}
    own = f"{__name__}.Encoder"
    assert config.module_type_configs == {own: rule}
    assert KMeansPalettizerConfig(module_type_configs={Encoder: None}).module_type_configs == {
        own: None
    }
    assert w4().without() == w4() == w4().without([])
    assert w4().without(["a", Encoder]) == w4().without("a", Encoder)


def test_targets_of_only_for_have_rules_of_their_own():
    config = w4().only_for("a", Encoder)
    config.module_name_configs["a"].rounding_precision = 7
    assert config.module_type_configs[f"{__name__}.Encoder"].rounding_precision == 4


def test_a_refused_builder_or_assignment_changes_nothing():
    config, module = w4(), ModuleKMeansPalettizerConfig()
    with pytest.raises(ValidationError, match="fully qualified"):
        config.set_module_type("Linear", None)
    with pytest.raises(ValidationError, match="belongs to one module"):
        config.global_config = {"module_state_spec": {"weight": None}}
    with pytest.raises(ValidationError, match="enable_fast_kmeans_mode must be false"):
        module.op_state_spec = {"weight": PalettizationSpec(cluster_dim=2)}
    with pytest.raises(ValidationError, match="Extra inputs"):
        module.rounding_precison = 3
    assert config == w4()
    assert module == ModuleKMeansPalettizerConfig()


def test_assigned_fields_are_validated_and_count_as_set():
    module = ModuleKMeansPalettizerConfig()
    module.rounding_precision = "6"
    module.op_type_config = {"linear": {"op_state_spec": None}}
    assert module.rounding_precision == 6
    assert module.op_type_config["linear"] == OpKMeansPalettizerConfig(op_state_spec=None)
    assert module.model_fields_set == {"rounding_precision", "op_type_config"}
    with pytest.raises(ValidationError, match="frozen"):
        PalettizationSpec().n_bits = 3


def test_builders_refuse():
    with pytest.raises(ValueError, match="at least one"):
        w4().only_for()
    with pytest.raises(ValueError, match="all targets in one call"):
        w4().only_for("a").only_for("b")
    with pytest.raises(TypeError, match="got 3"):
        w4().without(["a", 3])
    with pytest.raises(ValidationError, match="fully qualified"):
        w4().set_module_type("Linear", None)


def test_a_rule_set_again_keeps_its_place():
    config = w4().set_module_name("a.*", None).set_module_name(".*", None)
    again = config.set_module_name("a.*", w8().global_config)
    assert list(again.module_name_configs) == ["a.*", ".*"]
    assert again.module_name_configs["a.*"] == w8().global_config


def test_presets():
    grouped = PerGroupedChannelGranularity(group_size=8, axis=1)
    weight = w6(axis=1, group_size=8).global_config.op_state_spec["weight"]
    assert weight == PalettizationSpec(n_bits=6, granularity=grouped)
    assert w8().global_config.op_state_spec["in_proj_weight"] == PalettizationSpec(n_bits=8)
    assert KMeansPalettizerConfig.presets.w6(axis=1, group_size=8) == w6(1, 8)
    assert ModuleKMeansPalettizerConfig.presets.w4() == w4().global_config
    with pytest.raises(ValidationError):
        w4(axis=2)


def test_from_dict_wants_the_file_form():
    assert KMeansPalettizerConfig.from_dict(w4().to_dict()) == w4()
    for wrong in ({}, {"global_config": None}, {**w4().to_dict(), "foo": 1}):
        with pytest.raises(ValueError, match="kmeans_palettization_config"):
            KMeansPalettizerConfig.from_dict(wrong)
    with pytest.raises(ValueError, match="coreai-opt's config for quantization"):
        KMeansPalettizerConfig.from_dict({"quantization_config": {}, "quantization_spec": {}})


def test_the_language_needs_neither_torch_nor_numpy():
    program = (
        "import sys, palettery.schemas.config; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"
