"""Which module config governs each module: name before type before global, later before earlier."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from palettery.app.planning.paths import keyed, pointer
from palettery.app.planning.patterns import Patterns
from palettery.schemas.checkpoint import Module
from palettery.schemas.config import KMeansPalettizerConfig, ModuleKMeansPalettizerConfig


@dataclass(frozen=True)
class Rules:
    """A module config as it governs a module."""

    path: str
    """Where it stands in the config, as the plan writes it."""
    pointer: str
    """The same as a JSON pointer."""
    config: ModuleKMeansPalettizerConfig | None
    """None switches palettization off."""
    own: bool
    """It names the module itself, not an ancestor; only then its module_state_spec counts."""


@dataclass(frozen=True)
class Government:
    """Who governs whom."""

    rules: Mapping[str, Rules]
    """Module -> its rules, in falling precedence: the first wins over a shared tensor."""
    matched: frozenset[str]
    """Paths of the module configs that match a module, even one that another governs."""


class ModuleTree:
    """Modules by every name they go by, and who lies in whom."""

    def __init__(self, modules: Collection[Module]) -> None:
        self.modules: Mapping[str, Module] = {module.name: module for module in modules}
        self._position = {name: number for number, name in enumerate(self.modules)}
        self._canonical = {
            name: module.name for module in modules for name in (module.name, *module.aliases)
        }
        self.names = sorted(self._canonical)
        self.children: dict[str, dict[str, None]] = defaultdict(dict)
        for name, canonical in self._canonical.items():
            parent = self._canonical.get(name.rpartition(".")[0])
            if name and parent is not None:
                self.children[parent][canonical] = None

    def canonical(self, name: str) -> str:
        """The first name of a module; the root for a name that no module has."""
        return self._canonical.get(name, "")

    def owner(self, tensor: str) -> Module:
        """The module that has a tensor of this name."""
        return self.modules[self.canonical(tensor.rpartition(".")[0])]

    def inner_first(self, names: Collection[str]) -> list[str]:
        """Modules, each before those it lies in."""
        return sorted(names, key=self._position.__getitem__, reverse=True)


def govern(config: KMeansPalettizerConfig, tree: ModuleTree, patterns: Patterns) -> Government:
    """The rules of every module.

    A config reaches all descendants of the modules it names, except those that a config of more
    weight has reached already. Inner modules are named before outer ones, so that each gets its
    own module_state_spec.

    Source: coreai-opt 0.3.0, `CompressionConfig.build_module_config_dict`.
    """
    governed: dict[str, Rules] = {}
    reached: set[str] = set()
    for pattern, module_config in reversed(config.module_name_configs.items()):
        rules = _rules("module_name_configs", pattern, module_config)
        matched = patterns.matching(pattern, tree.names, rules.pointer)
        for name in tree.inner_first({tree.canonical(name) for name in matched}):
            reached.add(rules.path)
            _spread(name, rules, tree, governed)
    by_type: dict[str | None, list[str]] = defaultdict(list)
    for module in tree.modules.values():
        by_type[module.type].append(module.name)
    for type_name, module_config in reversed(config.module_type_configs.items()):
        rules = _rules("module_type_configs", type_name, module_config)
        for name in reversed(by_type.get(type_name, [])):
            reached.add(rules.path)
            _spread(name, rules, tree, governed)
    rules = Rules("global_config", "/global_config", config.global_config, own=True)
    for name in reversed(list(tree.modules)):
        governed.setdefault(name, rules)
    return Government(governed, frozenset(reached))


def _rules(field: str, key: str, config: ModuleKMeansPalettizerConfig | None) -> Rules:
    return Rules(keyed(field, key), pointer(field, key), config, own=True)


def _spread(name: str, own: Rules, tree: ModuleTree, governed: dict[str, Rules]) -> None:
    """Give a module its rules, and its descendants the same but for module_state_spec."""
    if name in governed:
        return
    inherited = replace(own, own=False)
    governed[name] = own
    waiting = [*reversed(tree.children.get(name, {}))]
    while waiting:
        child = waiting.pop()
        if child not in governed:
            governed[child] = inherited
            waiting += reversed(tree.children.get(child, {}))
