"""Lines of the errors in a document."""

import pytest

from palettery.schemas.config.errors import config_error
from palettery.schemas.config.line_numbers import with_line_numbers

YAML = """
global_config: null
module_name_configs:
  a/b:
    op_type_config: {linear: 1}
  c~d: [x,
    y]
"""


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        (("global_config",), 2),
        (("module_name_configs", "a/b"), 4),
        (("module_name_configs", "a/b", "op_type_config", "linear"), 5),
        (("module_name_configs", "c~d", 1), 7),
        (("module_name_configs", "c~d", "missing"), 6),
        (("missing",), None),
        ((), None),
    ],
)
def test_line_is_that_of_the_last_step_there_is(steps, line):
    (fault,) = with_line_numbers(config_error("wrong", *steps), YAML).errors
    assert fault.line == line


def test_document_that_cannot_be_parsed_has_no_lines():
    error = config_error("wrong", "a")
    assert with_line_numbers(error, "{") is error
