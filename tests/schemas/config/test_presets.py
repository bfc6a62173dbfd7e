"""Presets by their values."""

import pytest

from palettery.schemas.config import PRESETS, KMeansPalettizerConfig, ModuleKMeansPalettizerConfig
from palettery.schemas.config.presets import w4, w6


@pytest.mark.parametrize(
    ("name", "n_bits", "size"), [("w4", 4, 16), ("w6", 6, 16), ("w8", 8, None)]
)
def test_values(name, n_bits, size):
    module = PRESETS[name]().global_config
    for spec in module.op_state_spec.values():
        assert (spec.n_bits, getattr(spec.granularity, "group_size", None)) == (n_bits, size)
    assert getattr(KMeansPalettizerConfig.presets, name)() == PRESETS[name]()
    assert getattr(ModuleKMeansPalettizerConfig.presets, name)() == module


@pytest.mark.parametrize("preset", [w4, w6])
def test_groups_can_be_chosen(preset):
    spec = preset(axis=1, group_size=8).global_config.op_state_spec["weight"]
    assert (spec.granularity.axis, spec.granularity.group_size) == (1, 8)
