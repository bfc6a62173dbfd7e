"""Line numbers of the errors in a config document."""

import yaml

from palettery.schemas.config.errors import ConfigError
from palettery.schemas.config.parsing import decode
from palettery.schemas.problem import InvalidField

Members = dict[int, dict[str, tuple[int, yaml.Node]]]
"""Line and node of each member of the mappings and lists of a document, by node id."""


def with_line_numbers(error: ConfigError, text: str | bytes) -> ConfigError:
    """Return the same errors with their line numbers in the document.

    The document must have passed the checks of `load_text`. JSON that is not valid YAML gets no
    line numbers, nor does a document that cannot be parsed.
    """
    if all(not fault.pointer for fault in error.errors):
        return error
    try:
        root = yaml.compose(decode(text), yaml.CSafeLoader)
    except yaml.YAMLError:
        return error
    members: Members = {}
    return ConfigError(*(_with_line_number(fault, root, members) for fault in error.errors))


def _with_line_number(
    fault: InvalidField, root: yaml.Node | None, members: Members
) -> InvalidField:
    line = None
    for step in fault.pointer.split("/")[1:]:
        if root is None or (member := _members(root, members).get(_unescape(step))) is None:
            break
        line, root = member
    return fault if line is None else fault.model_copy(update={"line": line})


def _members(node: yaml.Node, members: Members) -> dict[str, tuple[int, yaml.Node]]:
    """Return line number and node of each member, by key or index."""
    if id(node) not in members:
        pairs = []
        if isinstance(node, yaml.MappingNode):
            pairs = [(str(key.value), key, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            pairs = [(str(number), item, item) for number, item in enumerate(node.value)]
        members[id(node)] = {
            step: (start.start_mark.line + 1, inner) for step, start, inner in pairs
        }
    return members[id(node)]


def _unescape(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")
