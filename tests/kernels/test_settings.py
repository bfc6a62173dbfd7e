"""Settings that cannot be are refused by name."""

from dataclasses import replace

import pytest

from palettery.kernels import PaletteSettings
from palettery.kernels.errors import SettingsError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_bits": 5}, "n_bits is 5"),
        ({"axis": 2}, "axis is 2"),
        ({"group_size": 0}, "group_size is 0"),
        ({"cluster_dim": 0}, "cluster_dim is 0"),
        ({"rounding_precision": 0}, "rounding_precision is 0"),
        ({"rounding_precision": 4, "cluster_dim": 2}, "cluster_dim > 1"),
        ({"lut_dtype": "int4"}, "int4"),
        ({"lut_dtype": "float8_e5m2", "lut_scheme": "asymmetric"}, "asymmetric"),
        ({"lut_dtype": "int8", "lut_scale_dtype": "float8_e8m0fnu"}, "lut_scale_dtype"),
        ({"lut_dtype": "int8", "lut_float_range": (0.5, 1.0)}, "lut_float_range"),
        ({"lut_dtype": "int8", "lut_float_range": (0.0, 0.0)}, "lut_float_range"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(SettingsError, match=message):
        replace(PaletteSettings(4), **change)
