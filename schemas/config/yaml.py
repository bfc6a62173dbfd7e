"""YAML as plain data: nothing that runs, explodes, contains itself or says a thing twice."""

import re
from dataclasses import dataclass

import yaml

from palettery.schemas.config.faults import ConfigError, fault, shown
from palettery.schemas.config.limits import LEVELS, VALUES

_DIRECTIVE = re.compile("(?:^|[\n\r\x85\u2028\u2029])%")
"""`%TAG` and `%YAML` at the start of a line; libyaml's time is quadratic in their number."""

_SEXAGESIMAL = re.compile(r"[-+]?\d[\d_]*:[\d_:.]{100}")
"""A number to base 60, as YAML 1.1 has them; the builder's time is quadratic in its length."""


def load_yaml(text: str) -> object:
    """The data of a YAML document.

    Raises:
        ConfigError: it is no YAML, or YAML beyond what a config needs.
    """
    try:
        _examine(text)
        return yaml.load(text, yaml.CSafeLoader)
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).replace(' in "<unicode string>",', " at").split())
        raise fault(f"the document is not valid YAML: {reason[:300]}") from error


@dataclass
class _Open:
    """A mapping or list whose end was not read yet; sizes count aliases as what they stand for."""

    anchor: str | None = None
    values: int = 1
    """Of its own and below."""
    levels: int = 0
    """Of mappings and lists below."""
    keys: set[str] | None = None
    """Read so far; None in a list."""
    at_key: bool = False
    """In a mapping, whether a key comes next."""

    def add(self, values: int, levels: int) -> None:
        self.values += values
        self.levels = max(self.levels, levels)


def _examine(text: str) -> None:
    """Refuse a document before it is built; libyaml's builder recurses and crashes on deep ones."""
    if _DIRECTIVE.search(text):
        raise fault("directives are not allowed; no line may begin with %")
    around = [_Open()]
    anchored: dict[str, _Open | None] = {}
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            done = around.pop()
            around[-1].add(done.values, done.levels + 1)
            if done.anchor is not None:
                anchored[done.anchor] = done
        elif isinstance(event, yaml.NodeEvent):
            _check_node(event, around[-1])
            if isinstance(event, yaml.CollectionStartEvent):
                around.append(_opened(event))
                if event.anchor is not None:
                    anchored[event.anchor] = None
            else:
                around[-1].add(*_size(event, anchored))
        if len(around) - 1 + around[-1].levels > LEVELS:
            raise fault(f"the document is nested deeper than {LEVELS} levels")
        if around[-1].values > VALUES:
            raise fault(f"the document has over {VALUES:,} values, its aliases written out")


def _opened(event: yaml.CollectionStartEvent) -> _Open:
    if isinstance(event, yaml.MappingStartEvent):
        return _Open(anchor=event.anchor, keys=set(), at_key=True)
    return _Open(anchor=event.anchor)


def _size(event: yaml.NodeEvent, anchored: dict[str, _Open | None]) -> tuple[int, int]:
    """Values and levels that a scalar or an alias stands for."""
    if not isinstance(event, yaml.AliasEvent) or event.anchor not in anchored:
        return 1, 0
    meant = anchored[event.anchor]
    if meant is None:
        raise fault(f"the alias *{event.anchor} stands inside what it refers to")
    return meant.values, meant.levels + 1


def _check_node(event: yaml.NodeEvent, around: _Open) -> None:
    place = f"line {event.start_mark.line + 1}" if event.start_mark else "it"
    if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
        raise fault(f"tags are not allowed; {place} has {shown(event.tag)}")
    if isinstance(event, yaml.ScalarEvent) and _SEXAGESIMAL.match(event.value):
        raise fault(f"numbers to base 60 are not allowed; {place} has {shown(event.value)}")
    if around.keys is None:
        return
    if around.at_key:
        if not isinstance(event, yaml.ScalarEvent):
            raise fault(f"keys must be text; {place} has another")
        if event.value in around.keys:
            raise fault(f"the key {shown(event.value)} stands twice in {place}")
        around.keys.add(event.value)
    around.at_key = not around.at_key
