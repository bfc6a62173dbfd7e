"""Selection of the module config that applies to each module.

Precedence: module_name_configs, module_type_configs, global_config; in one of them, the last key.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from palettery.app.planning.paths import format_path, json_pointer
from palettery.app.planning.patterns import Patterns
from palettery.schemas.checkpoint import Module
from palettery.schemas.config import KMeansPalettizerConfig, ModuleKMeansPalettizerConfig


@dataclass(frozen=True)
class ModuleRule:
    """The module config that applies to a module, and why."""

    path: str
    """Path in the config, as the plan writes it."""
    pointer: str
    """The path as a JSON pointer."""
    config: ModuleKMeansPalettizerConfig | None
    """None turns palettization off."""
    is_direct: bool
    """False if it is inherited from an ancestor; then its module_state_spec does not apply."""


@dataclass(frozen=True)
class ModuleRules:
    """The rule of every module."""

    by_module: Mapping[str, ModuleRule]
    """Module name -> rule, in the order of precedence: the first wins for a shared tensor."""
    matched_paths: frozenset[str]
    """Paths of the module configs that match a module, even if another one applies to it."""


class ModuleTree:
    """Modules by all of their names, aliases included, and their children."""

    def __init__(self, modules: Collection[Module]) -> None:
        self.modules: Mapping[str, Module] = {module.name: module for module in modules}
        self._order = {name: number for number, name in enumerate(self.modules)}
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
        """Return the canonical (first) name of a module; that of the root for an unknown name."""
        return self._canonical.get(name, "")

    def owner(self, tensor: str) -> Module:
        """Return the module that a tensor belongs to."""
        return self.modules[self.canonical(tensor.rpartition(".")[0])]

    def inner_first(self, names: Collection[str]) -> list[str]:
        """Return modules in an order in which descendants come before their ancestors."""
        return sorted(names, key=self._order.__getitem__, reverse=True)


def find_module_rules(
    config: KMeansPalettizerConfig, tree: ModuleTree, patterns: Patterns
) -> ModuleRules:
    """Return the rule of every module.

    A config applies to the modules that it matches and to their descendants, except those that a
    config of higher precedence applies to. Descendants are visited before their ancestors, so that
    each match is direct, which makes its module_state_spec apply.

    Source: coreai-opt 0.4.0, `CompressionConfig.build_module_config_dict`.
    """
    by_module: dict[str, ModuleRule] = {}
    matched_paths: set[str] = set()
    for pattern, module_config in reversed(config.module_name_configs.items()):
        rule = _build_rule("module_name_configs", pattern, module_config)
        matched = patterns.matching(pattern, tree.names, rule.pointer)
        for name in tree.inner_first({tree.canonical(name) for name in matched}):
            matched_paths.add(rule.path)
            _apply_to_subtree(name, rule, tree, by_module)
    by_type: dict[str | None, list[str]] = defaultdict(list)
    for module in tree.modules.values():
        by_type[module.type].append(module.name)
    for type_name, module_config in reversed(config.module_type_configs.items()):
        rule = _build_rule("module_type_configs", type_name, module_config)
        for name in reversed(by_type.get(type_name, [])):
            matched_paths.add(rule.path)
            _apply_to_subtree(name, rule, tree, by_module)
    rule = ModuleRule("global_config", "/global_config", config.global_config, is_direct=True)
    for name in reversed(list(tree.modules)):
        by_module.setdefault(name, rule)
    return ModuleRules(by_module, frozenset(matched_paths))


def _build_rule(field: str, key: str, config: ModuleKMeansPalettizerConfig | None) -> ModuleRule:
    return ModuleRule(format_path(field, key), json_pointer(field, key), config, is_direct=True)


def _apply_to_subtree(
    name: str, rule: ModuleRule, tree: ModuleTree, by_module: dict[str, ModuleRule]
) -> None:
    """Apply a rule to a module and its descendants, up to those that already have a rule."""
    if name in by_module:
        return
    inherited = replace(rule, is_direct=False)
    by_module[name] = rule
    stack = [*reversed(tree.children.get(name, {}))]
    while stack:
        child = stack.pop()
        if child not in by_module:
            by_module[child] = inherited
            stack += reversed(tree.children.get(child, {}))
