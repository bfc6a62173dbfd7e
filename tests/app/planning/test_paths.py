"""Paths in a config."""

from palettery.app.planning.paths import format_path, json_pointer


def test_paths_of_the_plan():
    assert format_path("a", "b", "c", "d") == 'a["b"].c["d"]'
    assert format_path("module_name_configs", 'ü."x"') == 'module_name_configs["ü.\\"x\\""]'


def test_pointers_escape_as_in_rfc_6901():
    assert json_pointer() == ""
    assert json_pointer("a/b", "m~n", "") == "/a~1b/m~0n/"
