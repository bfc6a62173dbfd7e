"""Where in a config document its faults stand."""

import yaml

from palettery.schemas.config.faults import ConfigError
from palettery.schemas.config.text import decoded
from palettery.schemas.problem import InvalidField

Members = dict[int, dict[str, tuple[int, yaml.Node]]]
"""What is known of the mappings and lists of a document, by their identity."""


def with_lines(error: ConfigError, text: str | bytes) -> ConfigError:
    """The same faults, each with the line of the document that it is about.

    The document has been examined; JSON that is no YAML has no lines, and nor has a document that
    could not be read at all.
    """
    if all(not fault.pointer for fault in error.errors):
        return error
    try:
        root = yaml.compose(decoded(text), yaml.CSafeLoader)
    except yaml.YAMLError:
        return error
    members: Members = {}
    return ConfigError(*(_with_line(fault, root, members) for fault in error.errors))


def _with_line(fault: InvalidField, root: yaml.Node | None, members: Members) -> InvalidField:
    line = None
    for step in fault.pointer.split("/")[1:]:
        if root is None or (found := _members(root, members).get(_plain(step))) is None:
            break
        line, root = found
    return fault if line is None else fault.model_copy(update={"line": line})


def _members(node: yaml.Node, members: Members) -> dict[str, tuple[int, yaml.Node]]:
    """Step -> the line where it stands, and what is there."""
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


def _plain(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")
