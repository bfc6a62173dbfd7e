"""The module config of each module: by name, then type, then global; later before earlier."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from palettery.app.planning.paths import keyed, pointer
from palettery.app.planning.patterns import Patterns
from palettery.schemas.checkpoint import Module
from palettery.schemas.config import KMeansPalettizerConfig, ModuleKMeansPalettizerConfig


@dataclass(frozen=True)
class ModuleRule:
    """A module config that applies to a module."""

    path: str
    """Path in the config, as the plan writes it."""
    pointer: str
    """The path as a JSON pointer."""
    config: ModuleKMeansPalettizerConfig | None
    """None turns palettization off."""
    own: bool
    """Whether the rule is the module's own; module_state_spec does not apply to descendants."""


@dataclass(frozen=True)
class ModuleRules:
    """The rule of every module."""

    by_module: Mapping[str, ModuleRule]
    """Module -> its rule, highest precedence first: the first wins for a shared tensor."""
    matched: frozenset[str]
    """Paths of the module configs that match a module, even if another one applies to it."""


class ModuleTree:
    """Modules by all of their names, and the modules inside each."""

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
        """Return the first name of a module; the root for an unknown name."""
        return self._canonical.get(name, "")

    def owner(self, tensor: str) -> Module:
        """Return the module that a tensor belongs to."""
        return self.modules[self.canonical(tensor.rpartition(".")[0])]

    def inner_first(self, names: Collection[str]) -> list[str]:
        """Sort modules so that each comes before those it lies in."""
        return sorted(names, key=self._position.__getitem__, reverse=True)


def find_module_rules(
    config: KMeansPalettizerConfig, tree: ModuleTree, patterns: Patterns
) -> ModuleRules:
    """Return the rule of every module.

    A config applies to all descendants of the modules it names, except those that a config of
    higher precedence applies to. Inner modules are visited before outer ones, so that each gets
    its own module_state_spec.

    Source: coreai-opt 0.3.0, `CompressionConfig.build_module_config_dict`.
    """
    by_module: dict[str, ModuleRule] = {}
    matched_paths: set[str] = set()
    for pattern, module_config in reversed(config.module_name_configs.items()):
        rule = _rule("module_name_configs", pattern, module_config)
        matched = patterns.matching(pattern, tree.names, rule.pointer)
        for name in tree.inner_first({tree.canonical(name) for name in matched}):
            matched_paths.add(rule.path)
            _spread(name, rule, tree, by_module)
    by_type: dict[str | None, list[str]] = defaultdict(list)
    for module in tree.modules.values():
        by_type[module.type].append(module.name)
    for type_name, module_config in reversed(config.module_type_configs.items()):
        rule = _rule("module_type_configs", type_name, module_config)
        for name in reversed(by_type.get(type_name, [])):
            matched_paths.add(rule.path)
            _spread(name, rule, tree, by_module)
    rule = ModuleRule("global_config", "/global_config", config.global_config, own=True)
    for name in reversed(list(tree.modules)):
        by_module.setdefault(name, rule)
    return ModuleRules(by_module, frozenset(matched_paths))


def _rule(field: str, key: str, config: ModuleKMeansPalettizerConfig | None) -> ModuleRule:
    return ModuleRule(keyed(field, key), pointer(field, key), config, own=True)


def _spread(name: str, own: ModuleRule, tree: ModuleTree, by_module: dict[str, ModuleRule]) -> None:
    """Apply a rule to a module, and to its descendants without the module_state_spec."""
    if name in by_module:
        return
    inherited = replace(own, own=False)
    by_module[name] = own
    waiting = [*reversed(tree.children.get(name, {}))]
    while waiting:
        child = waiting.pop()
        if child not in by_module:
            by_module[child] = inherited
            waiting += reversed(tree.children.get(child, {}))
