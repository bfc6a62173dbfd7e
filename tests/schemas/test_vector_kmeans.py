"""Settings of vector palettes and sparse weights, which coreai-opt 0.4 added."""

import math

import pytest
from pydantic import ValidationError

from palettery.schemas.config import (
    KMeansPalettizerConfig,
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
    VectorKMeansConfig,
)


@pytest.mark.parametrize("place", ["op_state_spec", "module_state_spec", "op_type", "op_name"])
def test_vector_kmeans_settings_need_a_vector_spec_anywhere_in_the_rule(place):
    states = {"weight": None, "*": PalettizationSpec(cluster_dim=2)}
    fields = {place: states}
    if place.startswith("op_") and place != "op_state_spec":
        fields = {f"{place}_config": {"linear": None, "x": {"op_state_spec": states}}}
    settings = VectorKMeansConfig(n_init=2)
    module = ModuleKMeansPalettizerConfig(
        **fields, vector_kmeans_config=settings, enable_fast_kmeans_mode=False
    )
    assert module.vector_kmeans_config == settings
    with pytest.raises(ValidationError, match="no spec of this rule has a cluster_dim above 1"):
        ModuleKMeansPalettizerConfig(vector_kmeans_config=settings)
    with pytest.raises(ValidationError, match="no spec of this rule has a cluster_dim above 1"):
        ModuleKMeansPalettizerConfig(op_state_spec=None, vector_kmeans_config={})


@pytest.mark.parametrize(
    "fields",
    [
        {"n_init": 0},
        {"n_init": None},
        {"n_local_trials": 0},
        {"max_iter": 2.5},
        {"tol": -1e-9},
        {"tol": float("nan")},
        {"seed": 1},
    ],
)
def test_vector_kmeans_refuses(fields):
    with pytest.raises(ValidationError):
        VectorKMeansConfig(**fields)


def test_numbers_are_read_as_in_coreai_opt():
    lax = VectorKMeansConfig(n_local_trials="3", n_init=2.0, max_iter=True, tol="inf")
    assert lax == VectorKMeansConfig(n_local_trials=3, n_init=2, max_iter=1, tol=math.inf)
    assert PalettizationSpec(sparsity_detection_threshold=True).sparsity_detection_threshold == 1.0
    assert PalettizationSpec(sparsity_detection_threshold="0.5").sparsity_detection_threshold == 0.5


def test_an_infinite_tolerance_is_written_as_json_allows():
    module = {"op_state_spec": {"*": {"cluster_dim": 2}}, "enable_fast_kmeans_mode": False}
    config = KMeansPalettizerConfig(
        global_config={**module, "vector_kmeans_config": {"tol": math.inf}}
    )
    for text in (config.to_json(), config.to_yaml()):
        assert KMeansPalettizerConfig.from_json(text) == config
    assert '"tol": "Infinity"' in config.to_json()
