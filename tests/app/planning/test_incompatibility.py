"""What fits, and what it takes: answers worked out by hand."""

import pytest

from palettery.app.planning.incompatibility import (
    find_incompatibility,
    group_count,
    palettized_bytes,
    resolve_clustering,
)
from palettery.schemas.config import ModuleKMeansPalettizerConfig, PalettizationSpec


def spec(group_size=None, axis=None, **fields):
    if group_size:
        fields["granularity"] = {
            "type": "per_grouped_channel",
            "group_size": group_size,
            "axis": axis,
        }
    return PalettizationSpec.model_validate(fields)


def misfit_of(shape, wanted, op_type="linear"):
    config = ModuleKMeansPalettizerConfig(enable_fast_kmeans_mode=False)
    return find_incompatibility(shape, wanted, resolve_clustering(wanted, config, op_type), op_type)


FITS = [
    ((8, 6), spec()),
    ((8, 6), spec(4)),
    ((8, 6), spec(3, axis=1)),
    ((8, 6), spec(4, cluster_dim=2)),
    ((8, 6), spec(3, axis=1, cluster_dim=4)),
    ((7,), spec()),
    ((2, 2, 2, 2, 4, 4), spec(2, axis=1, enable_per_channel_scale=True)),
]
MISFITS = [
    ((8, 6), spec(3), "group_size 3 does not divide axis 0 of length 8"),
    ((8, 6), spec(4, axis=1), "group_size 4 does not divide axis 1 of length 6"),
    ((8, 6), spec(cluster_dim=3), "cluster_dim 3 does not divide axis 0 of length 8"),
    ((12, 6), spec(4, cluster_dim=3), "cluster_dim 3 does not divide group_size 4"),
    ((8, 6), spec(3, axis=1, cluster_dim=3), "cluster_dim 3 does not divide axis 0 of length 8"),
    ((8,), spec(2), "one axis"),
    ((8,), spec(cluster_dim=2), "one axis"),
    ((8,), spec(enable_per_channel_scale=True), "one axis"),
    ((8, 4, 4), spec(cluster_dim=2), "it has 3 axes"),
]


@pytest.mark.parametrize(("shape", "wanted"), FITS)
def test_fits(shape, wanted):
    assert misfit_of(shape, wanted) is None


@pytest.mark.parametrize(("shape", "wanted", "message"), MISFITS)
def test_misfits(shape, wanted, message):
    assert message in misfit_of(shape, wanted)


def test_convolutions_flatten_their_kernels_and_keep_their_biases():
    assert misfit_of((8, 4, 3, 3), spec(cluster_dim=2), "conv2d") is None
    assert "bias" in misfit_of((8,), spec(), "conv2d")


@pytest.mark.parametrize(
    ("op_type", "axis"), [("linear", 0), ("conv3d", 0), ("conv_transpose1d", 1), (None, 0)]
)
def test_the_op_fills_in_the_axis(op_type, axis):
    config = ModuleKMeansPalettizerConfig()
    assert resolve_clustering(spec(2), config, op_type).axis == axis
    assert resolve_clustering(spec(2, axis=1), config, op_type).axis == 1
    assert resolve_clustering(spec(), config, op_type).axis == 0


def test_rounding_is_for_scalar_palettes_in_fast_mode():
    fast = ModuleKMeansPalettizerConfig(rounding_precision=6)
    exact = ModuleKMeansPalettizerConfig(enable_fast_kmeans_mode=False)
    assert resolve_clustering(spec(), fast, "linear").rounding_precision == 6
    assert resolve_clustering(spec(cluster_dim=2), fast, "linear").rounding_precision is None
    assert resolve_clustering(spec(), exact, "linear").rounding_precision is None


INT8, FP8 = {"dtype": "int8"}, {"dtype": "float8_e4m3fn"}
SIZES = [
    # 48 indices of 4 bits; 16 entries
    (spec(), 4, 24 + 16 * 4),
    (spec(), 2, 24 + 16 * 2),
    # 2 palettes
    (spec(4), 4, 24 + 2 * 16 * 4),
    # 3 bits: 144 bits are 18 bytes
    (spec(n_bits=3), 4, 18 + 8 * 4),
    # 24 indices; entries of two values
    (spec(cluster_dim=2), 4, 12 + 16 * 2 * 4),
    # 8 channels
    (spec(4, enable_per_channel_scale=True), 4, 24 + 2 * 16 * 4 + 8 * 4),
    # entries of a byte; a scale and a zero point per palette
    (spec(4, lut_qspec=INT8), 4, 24 + 2 * 16 + 2 * 4 + 2),
    (spec(4, lut_qspec=FP8), 4, 24 + 2 * 16 + 2 * 4),
]


@pytest.mark.parametrize(("wanted", "value_bytes", "size"), SIZES)
def test_predicted_bytes(wanted, value_bytes, size):
    clustering = resolve_clustering(wanted, ModuleKMeansPalettizerConfig(), "linear")
    groups = group_count((8, 6), clustering)
    assert palettized_bytes((8, 6), value_bytes, wanted, groups) == size
