"""Parsing of YAML into plain data, without tags, directives, recursion or duplicate keys."""

import re
from dataclasses import dataclass

import yaml

from palettery.schemas.config.errors import ConfigError, config_error, short_repr
from palettery.schemas.config.limits import MAX_DEPTH, MAX_VALUES

_DIRECTIVE = re.compile("(?:^|[\n\r\x85\u2028\u2029])%")
"""`%TAG` and `%YAML` at the start of a line; libyaml's time is quadratic in their number."""

_SEXAGESIMAL = re.compile(r"[-+]?\d[\d_]*:[\d_:.]{100}")
"""A number to base 60, as YAML 1.1 has them; the builder's time is quadratic in its length."""


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
    """A mapping or list whose end is not yet read; sizes count aliases as their targets."""

    anchor: str | None = None
    values: int = 1
    """Number of values in it, at any depth, and itself."""
    levels: int = 0
    """Depth of the mappings and lists in it."""
    keys: set[str] | None = None
    """Keys read so far; None in a list."""
    at_key: bool = False
    """Whether the next node is a key of the mapping."""

    def add(self, values: int, levels: int) -> None:
        self.values += values
        self.levels = max(self.levels, levels)


def _check_document(text: str) -> None:
    """Check a document before it is built; libyaml's builder crashes on deeply nested ones."""
    if _DIRECTIVE.search(text):
        raise config_error("directives are not allowed; no line may begin with %")
    around = [_OpenNode()]
    anchored: dict[str, _OpenNode | None] = {}
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            done = around.pop()
            around[-1].add(done.values, done.levels + 1)
            if done.anchor is not None:
                anchored[done.anchor] = done
        elif isinstance(event, yaml.NodeEvent):
            _check_node(event, around[-1])
            if isinstance(event, yaml.CollectionStartEvent):
                around.append(_open_node(event))
                if event.anchor is not None:
                    anchored[event.anchor] = None
            else:
                around[-1].add(*_node_size(event, anchored))
        if len(around) - 1 + around[-1].levels > MAX_DEPTH:
            raise config_error(f"the document is nested deeper than {MAX_DEPTH} levels")
        if around[-1].values > MAX_VALUES:
            raise config_error(
                f"the document has over {MAX_VALUES:,} values, with aliases expanded"
            )


def _open_node(event: yaml.CollectionStartEvent) -> _OpenNode:
    if isinstance(event, yaml.MappingStartEvent):
        return _OpenNode(anchor=event.anchor, keys=set(), at_key=True)
    return _OpenNode(anchor=event.anchor)


def _node_size(event: yaml.NodeEvent, anchored: dict[str, _OpenNode | None]) -> tuple[int, int]:
    """Return number of values and depth of a scalar, or of the target of an alias."""
    if not isinstance(event, yaml.AliasEvent) or event.anchor not in anchored:
        return 1, 0
    target = anchored[event.anchor]
    if target is None:
        raise config_error(f"the alias *{event.anchor} is inside the node that it refers to")
    return target.values, target.levels + 1


def _check_node(event: yaml.NodeEvent, around: _OpenNode) -> None:
    place = f"line {event.start_mark.line + 1}" if event.start_mark else "it"
    if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
        raise config_error(f"tags are not allowed; {place} has {short_repr(event.tag)}")
    if isinstance(event, yaml.ScalarEvent) and _SEXAGESIMAL.match(event.value):
        raise config_error(
            f"numbers in base 60 are not allowed; {place} has {short_repr(event.value)}"
        )
    if around.keys is None:
        return
    if around.at_key:
        if not isinstance(event, yaml.ScalarEvent):
            raise config_error(f"keys must be text; {place} has another")
        if event.value in around.keys:
            raise config_error(f"the key {short_repr(event.value)} occurs twice in {place}")
        around.keys.add(event.value)
    around.at_key = not around.at_key
