"""What the kernels get of a config."""

import math
import sys

import pytest

from palettery.app.compression.palettize import kernel_settings
from palettery.app.planning.incompatibility import resolve_clustering
from palettery.kernels import VectorKMeans
from palettery.schemas.config import (
    ModuleKMeansPalettizerConfig,
    PalettizationSpec,
    VectorKMeansConfig,
)
from palettery.schemas.plan import Clustering

VECTORS = PalettizationSpec(cluster_dim=2)


def clustering(spec, **settings):
    module = ModuleKMeansPalettizerConfig(
        op_state_spec={"weight": VECTORS},
        enable_fast_kmeans_mode=False,
        vector_kmeans_config=VectorKMeansConfig(**settings),
    )
    return resolve_clustering(spec, module, "linear")


@pytest.mark.parametrize(
    "settings",
    [{}, {"n_local_trials": 1, "n_init": 12, "max_iter": 30, "tol": 0.5}, {"n_init": 1, "tol": 0}],
)
def test_vector_settings_reach_the_kernel(settings):
    planned = clustering(VECTORS, **settings)
    sent = Clustering.model_validate_json(planned.model_dump_json())
    assert kernel_settings(VECTORS, sent).vector_kmeans == VectorKMeans(**settings)


def test_an_infinite_tolerance_is_a_large_one():
    sent = Clustering.model_validate_json(clustering(VECTORS, tol=math.inf).model_dump_json())
    assert kernel_settings(VECTORS, sent).vector_kmeans == VectorKMeans(tol=sys.float_info.max)


def test_scalar_palettes_of_the_rule_have_none():
    spec = PalettizationSpec(n_bits=2)
    planned = clustering(spec, n_init=9)
    assert "vector_kmeans" not in planned.model_dump()
    assert kernel_settings(spec, planned).vector_kmeans is None
