"""Patterns of a config are all checked before any is matched."""

import pytest

from palettery.app.errors import InvalidConfig
from palettery.app.planning.pattern_keys import check_patterns
from palettery.app.planning.patterns import Patterns
from palettery.schemas.config import KMeansPalettizerConfig


def config(*names):
    return KMeansPalettizerConfig.model_validate(
        {
            "global_config": {"op_name_config": {"[": None}},
            "module_name_configs": {name: {"op_name_config": {"ok.*": None}} for name in names},
        }
    )


def test_all_that_are_wrong_are_named_with_their_place():
    with pytest.raises(InvalidConfig) as error:
        check_patterns(config("fine.*", "(", "a/b("), Patterns(timeout_s=10))
    assert [fault.pointer for fault in error.value.errors] == [
        "/module_name_configs/(",
        "/module_name_configs/a~1b(",
        "/global_config/op_name_config/[",
    ]


def test_sound_patterns_pass():
    sound = {"module_name_configs": {"a.*": None, "(b|c)": None}}
    check_patterns(KMeansPalettizerConfig.model_validate(sound), Patterns(timeout_s=10))
