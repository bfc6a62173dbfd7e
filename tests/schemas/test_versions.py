"""Configs for older versions of coreai-opt, and what those cannot say."""

import json

import pytest

from palettery.schemas.config import (
    ConfigError,
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
    PATSchedule,
    QuantizationSpec,
    VectorKMeansConfig,
    parse_config,
    w4,
)

KEY = "kmeans_palettization_config"
ADDED = {
    "0.3": {"pat_schedule", "training_strategy_spec"},
    "0.4": {"vector_kmeans_config", "sparsity_detection_threshold"},
}


def keys(data):
    """Every key of a document, at any depth."""
    if not isinstance(data, dict):
        return set()
    return data.keys() | {key for value in data.values() for key in keys(value)}


def faults(config, version):
    with pytest.raises(ConfigError) as caught:
        config.to_dict(version)
    return {error.pointer: error.detail for error in caught.value.errors}


def everything(**fields):
    """A config with every setting of 0.4; a name of a setting as a name of a module."""
    spec = PalettizationSpec(cluster_dim=2, sparsity_detection_threshold=0.5)
    module = ModuleKMeansPalettizerConfig(
        op_name_config={"a/b": {"op_state_spec": {"weight": spec}}},
        enable_fast_kmeans_mode=False,
        vector_kmeans_config=VectorKMeansConfig(n_init=9),
        pat_schedule=PATSchedule(enable_fake_palettize=2),
        **fields,
    )
    return KMeansPalettizerConfig(module_name_configs={"pat_schedule": module})


@pytest.mark.parametrize("version", ["0.2", "0.3", "0.4"])
def test_a_config_without_new_settings_is_written_without_their_keys(version):
    config = w4().set_module_name("pat_schedule", ModuleKMeansPalettizerConfig())
    data = config.to_dict(version)
    later = {key for added, names in ADDED.items() if added > version for key in names}
    assert not keys(data[KEY]["global_config"]) & later
    assert list(data[KEY]["module_name_configs"]) == ["pat_schedule"]
    assert KMeansPalettizerConfig.from_dict(data) == config
    assert json.loads(config.to_json(version)) == data
    assert parse_config(config.to_yaml(version)) == config


def test_settings_that_mean_the_default_are_left_out_for_an_older_version():
    config = KMeansPalettizerConfig(
        global_config=ModuleKMeansPalettizerConfig(
            op_state_spec={"weight": PalettizationSpec(cluster_dim=2)},
            enable_fast_kmeans_mode=False,
            vector_kmeans_config=VectorKMeansConfig(),
            pat_schedule=PATSchedule(),
        )
    )
    assert "vector_kmeans_config" in keys(config.to_dict())
    assert not keys(config.to_dict("0.3")) & ADDED["0.4"]
    assert not keys(config.to_dict("0.2")) & (ADDED["0.3"] | ADDED["0.4"])


def test_everything_that_an_older_version_lacks_is_told_at_once():
    module = f"/{KEY}/module_name_configs/pat_schedule"
    spec = f"{module}/op_name_config/a~1b/op_state_spec/weight"
    assert faults(everything(), "0.3").keys() == {
        f"{spec}/sparsity_detection_threshold",
        f"{module}/vector_kmeans_config",
    }
    told = faults(everything(), "0.2")
    assert told[f"{spec}/sparsity_detection_threshold"] == (
        "sparsity_detection_threshold 0.5 cannot be said in coreai-opt 0.2, which lacks it; write "
        "for 0.4, or leave it out"
    )
    assert f"{module}/pat_schedule" in told
    assert KMeansPalettizerConfig.from_dict(everything().to_dict("0.4")) == everything()


def test_0_2_has_no_dynamic_calculator():
    lut = QuantizationSpec(qparam_calculator_cls="dynamic")
    config = everything(module_state_spec={"bias": PalettizationSpec(lut_qspec=lut)})
    place = f"/{KEY}/module_name_configs/pat_schedule/module_state_spec/bias/lut_qspec"
    assert f"{place}/qparam_calculator_cls" in faults(config, "0.2")
    assert f"{place}/qparam_calculator_cls" not in faults(config, "0.3")


def test_an_unknown_version_is_refused():
    with pytest.raises(ValueError, match=r"one of 0\.2, 0\.3, 0\.4; got '0\.5'"):
        w4().to_dict("0.5")
