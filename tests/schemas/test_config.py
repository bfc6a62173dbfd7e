import subprocess
import sys

import pytest
from pydantic import ValidationError

from palettery.schemas.config import (
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
    PerGroupedChannel,
    PerTensor,
    QuantizationSpec,
    w4,
    w6,
    w8,
)


def test_left_out_means_four_bits_and_none_means_off():
    assert ModuleKMeansPalettizerConfig().op_state_spec == {
        "weight": PalettizationSpec(n_bits=4, granularity=PerTensor()),
        "in_proj_weight": PalettizationSpec(n_bits=4, granularity=PerTensor()),
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


def test_builders_return_a_new_config_and_chain():
    start = w4()
    built = start.without("head").only_for("encoder.*", Encoder)
    assert start == w4()
    assert built.global_config is None
    assert built.module_name_configs == {"head": None, "encoder.*": start.global_config}
    own = f"{__name__}.Encoder"
    assert built.module_type_configs == {own: start.global_config}
    assert KMeansPalettizerConfig(module_type_configs={Encoder: None}).module_type_configs == {
        own: None
    }
    assert start.without() == start == start.without([])
    assert start.without(["a", Encoder]) == start.without("a", Encoder)


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
    grouped = PerGroupedChannel(group_size=8, axis=1)
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


def test_the_language_needs_neither_torch_nor_numpy():
    asked = (
        "import sys, palettery.schemas.config; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
