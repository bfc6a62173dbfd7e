"""Line numbers of the errors in a config document."""

import yaml

from palettery.schemas.config.errors import ConfigError
from palettery.schemas.config.parsing import decode
from palettery.schemas.problem import InvalidField

Members = dict[int, dict[str, tuple[int, yaml.Node]]]
"""Line and node of each member of the mappings and lists of a document, by node id."""


def with_line_numbers(error: ConfigError, text: str | bytes) -> ConfigError:
    """Return the same errors with their line numbers in the document.

    The document must be within the limits of `load_text`. Without line numbers are documents that
    cannot be parsed as YAML, as is the case with some JSON.
    """
    if all(not field.pointer for field in error.errors):
        return error
    try:
        root = yaml.compose(decode(text), yaml.CSafeLoader)
    except yaml.YAMLError:
        return error
    members: Members = {}
    return ConfigError(*(_with_line_number(field, root, members) for field in error.errors))


def _with_line_number(
    field: InvalidField, root: yaml.Node | None, members: Members
) -> InvalidField:
    line = None
    for step in field.pointer.split("/")[1:]:
        if root is None or (member := _members(root, members).get(_unescape(step))) is None:
            break
        line, root = member
    return field if line is None else field.model_copy(update={"line": line})


def _members(node: yaml.Node, members: Members) -> dict[str, tuple[int, yaml.Node]]:
    """Return line number and node of each member, by key or index."""
    if id(node) not in members:
        pairs = []
        if isinstance(node, yaml.MappingNode):
            pairs = [(str(key.value), key, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            pairs = [(str(number), item, item) for number, item in enumerate(node.value)]
        members[id(node)] = {
            step: (key_node.start_mark.line + 1, value_node) for step, key_node, value_node in pairs
        }
    return members[id(node)]


def _unescape(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")
