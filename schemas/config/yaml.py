"""Parsing of YAML into plain data, without tags, directives, recursion or duplicate keys."""

import re
from dataclasses import dataclass

import yaml

from palettery.schemas.config.errors import ConfigError, config_error, short_repr
from palettery.schemas.config.limits import MAX_DEPTH, MAX_VALUES

_DIRECTIVE = re.compile("(?:^|[\n\r\x85\u2028\u2029])%")
"""Directives, `%TAG` or `%YAML`; libyaml takes time quadratic in their number."""

_SEXAGESIMAL = re.compile(r"[-+]?\d[\d_]*:[\d_:.]{100}")
"""Long base-60 number of YAML 1.1; PyYAML takes time quadratic in its length."""


def load_yaml(text: str) -> object:
    """Return the data of a YAML document.

    Raises:
        ConfigError: the document is not valid YAML, or uses features that are not allowed.
    """
    try:
        _check_document(text)
        return yaml.load(text, yaml.CSafeLoader)
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).replace(' in "<unicode string>",', " at").split())
        raise config_error(f"the document is not valid YAML: {reason[:300]}") from error


@dataclass
class _OpenNode:
    """A mapping or list whose end has not been read; its sizes count aliases as their targets."""

    anchor: str | None = None
    values: int = 1
    """Number of values in it at any depth, plus 1 for itself."""
    levels: int = 0
    """Number of levels of mappings and lists in it."""
    keys: set[str] | None = None
    """Keys read so far; None in a list."""
    at_key: bool = False
    """Whether the next node is a key of the mapping."""

    def add(self, values: int, levels: int) -> None:
        """Add the sizes of a child."""
        self.values += values
        self.levels = max(self.levels, levels)


def _check_document(text: str) -> None:
    """Check the events of a document before it is loaded: deep nesting crashes libyaml's loader."""
    if _DIRECTIVE.search(text):
        raise config_error("directives are not allowed; no line may begin with %")
    open_nodes = [_OpenNode()]
    nodes_by_anchor: dict[str, _OpenNode | None] = {}
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            closed = open_nodes.pop()
            open_nodes[-1].add(closed.values, closed.levels + 1)
            if closed.anchor is not None:
                nodes_by_anchor[closed.anchor] = closed
        elif isinstance(event, yaml.NodeEvent):
            _check_node(event, open_nodes[-1])
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append(_open_node(event))
                if event.anchor is not None:
                    nodes_by_anchor[event.anchor] = None
            else:
                open_nodes[-1].add(*_node_size(event, nodes_by_anchor))
        if len(open_nodes) - 1 + open_nodes[-1].levels > MAX_DEPTH:
            raise config_error(f"the document is nested deeper than {MAX_DEPTH} levels")
        if open_nodes[-1].values > MAX_VALUES:
            raise config_error(
                f"the document has over {MAX_VALUES:,} values, with aliases expanded"
            )


def _open_node(event: yaml.CollectionStartEvent) -> _OpenNode:
    if isinstance(event, yaml.MappingStartEvent):
        return _OpenNode(anchor=event.anchor, keys=set(), at_key=True)
    return _OpenNode(anchor=event.anchor)


def _node_size(
    event: yaml.NodeEvent, nodes_by_anchor: dict[str, _OpenNode | None]
) -> tuple[int, int]:
    """Return number of values and depth of a scalar, or of the target of an alias."""
    if not isinstance(event, yaml.AliasEvent) or event.anchor not in nodes_by_anchor:
        return 1, 0
    target = nodes_by_anchor[event.anchor]
    if target is None:
        raise config_error(f"the alias *{event.anchor} is inside the node that it refers to")
    return target.values, target.levels + 1


def _check_node(event: yaml.NodeEvent, parent: _OpenNode) -> None:
    location = f"line {event.start_mark.line + 1}" if event.start_mark else "it"
    if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
        raise config_error(f"tags are not allowed; {location} has {short_repr(event.tag)}")
    if isinstance(event, yaml.ScalarEvent) and _SEXAGESIMAL.match(event.value):
        raise config_error(
            f"numbers in base 60 are not allowed; {location} has {short_repr(event.value)}"
        )
    if parent.keys is None:
        return
    if parent.at_key:
        if not isinstance(event, yaml.ScalarEvent):
            raise config_error(f"keys must be text; {location} has another")
        if event.value in parent.keys:
            raise config_error(f"the key {short_repr(event.value)} occurs twice in {location}")
        parent.keys.add(event.value)
    parent.at_key = not parent.at_key
