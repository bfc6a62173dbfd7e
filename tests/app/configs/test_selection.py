"""Which config a request means."""

import pytest

from palettery.app.configs.documents import ConfigDocument, read_config
from palettery.app.configs.selection import select_config, select_document
from palettery.app.errors import BadInput, InvalidConfig, UnknownPreset
from palettery.schemas.config import w4

STORED = ConfigDocument("{}", "json", name="a@1")
WRITTEN = ConfigDocument("{}")


def choose(written=None, preset=None, name=None):
    return select_document(written, preset, name, {"a": STORED}.__getitem__)


def test_each_of_the_three():
    assert choose(written=WRITTEN) is WRITTEN
    assert choose(name="a") is STORED
    assert read_config(choose(preset="w4")) == w4()


@pytest.mark.parametrize(
    ("arguments", "got"),
    [
        ({}, "none"),
        ({"preset": "w4", "name": "a"}, "config_name and preset"),
        ({"written": WRITTEN, "name": "a"}, "config and config_name"),
        ({"written": WRITTEN, "name": "a", "preset": ""}, "config and config_name and preset"),
    ],
)
def test_none_or_several(arguments, got):
    with pytest.raises(BadInput) as caught:
        choose(**arguments)
    assert caught.value.detail.endswith(f"one of the three; got {got}")


def test_preset_that_there_is_not():
    with pytest.raises(UnknownPreset, match="no preset 'w44'; did you mean 'w4'"):
        choose(preset="w44")


def test_text_or_preset_of_a_command():
    assert select_config(w4().to_yaml(), None) == select_config(None, "w4") == w4()
    for both in (("{}", "w4"), (None, None)):
        with pytest.raises(BadInput, match="one of the two"):
            select_config(*both)
    with pytest.raises(InvalidConfig):
        select_config("", None)
