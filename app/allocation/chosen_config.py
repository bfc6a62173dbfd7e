"""The config of a choice: one rule for modules whose names differ in one number only."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from palettery.schemas.config import ModuleKMeansPalettizerConfig, PalettizationSpec
from palettery.schemas.config.model import CONFIG_KEY

_NUMBER = re.compile(r"(?:(?<=\.)|^)\d+(?=\.|$)")
"""A whole part of a dotted name that is a number."""


class ModuleChoice(NamedTuple):
    """What was chosen for the parameters of one module."""

    module: str
    """First dotted name of the module."""
    config: ModuleKMeansPalettizerConfig
    """Module config that applied before; only its k-means settings are taken over."""
    specs: Mapping[str, PalettizationSpec]
    """Local parameter name -> spec."""


def config_document(choices: Sequence[ModuleChoice], names: Sequence[str]) -> dict[str, Any]:
    """Return the content of a config file that palettizes these parameters, and nothing else.

    `names` are those of all modules. Rules of outer modules come first, so that those of the
    modules in them win.
    """
    rules = {choice.module: _rule(choice) for choice in choices}
    patterns = min((_patterns(rules, names, at) for at in (0, -1)), key=len)
    outer_first = sorted(patterns, key=lambda pattern: _depth(patterns[pattern]))
    return {
        CONFIG_KEY: {
            "global_config": None,
            "module_name_configs": {pattern: rules[patterns[pattern]] for pattern in outer_first},
        }
    }


def _depth(module: str) -> int:
    return module.count(".") + bool(module)


def _patterns(rules: Mapping[str, Any], names: Sequence[str], at: int) -> dict[str, str]:
    """Return patterns that cover the modules of all rules, with the first module of each.

    Modules share a pattern if their rules are equal and their names differ in the number `at`
    that position among the numbers in them, 0 for the first and -1 for the last.
    """
    numbers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name in names:
        before, number, after = _split(name, at)
        numbers[before, after].add(number)
    families: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for module, rule in rules.items():
        before, _, after = _split(module, at)
        families[before, after, json.dumps(rule)].append(module)
    patterns = {}
    for (before, after, _), modules in families.items():
        own = [_split(module, at)[1] for module in modules]
        middle = own[0] if len(own) == 1 else f"({'|'.join(own)})"
        if len(own) > 1 and set(own) == numbers[before, after]:
            middle = r"\d+"
        patterns[f"{re.escape(before)}{middle}{re.escape(after)}"] = modules[0]
    return patterns


def _split(name: str, at: int) -> tuple[str, str, str]:
    """Return a name before, at and after one of its numbers; all of it and "" if it has none."""
    numbers = list(_NUMBER.finditer(name))
    if not numbers:
        return name, "", ""
    number = numbers[at]
    return name[: number.start()], number[0], name[number.end() :]


def _rule(choice: ModuleChoice) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "op_state_spec": None,
        "module_state_spec": {local: _spec(spec) for local, spec in choice.specs.items()},
    }
    before = choice.config.model_dump(mode="json")
    defaults = ModuleKMeansPalettizerConfig().model_dump(mode="json")
    for field in ("enable_fast_kmeans_mode", "rounding_precision"):
        if before[field] != defaults[field]:
            rule[field] = before[field]
    has_vectors = any(spec.cluster_dim > 1 for spec in choice.specs.values())
    if has_vectors and (effort := before.get("vector_kmeans_config")) is not None:
        rule["vector_kmeans_config"] = effort
    return rule


def _spec(spec: PalettizationSpec) -> dict[str, Any]:
    """Return a spec without defaults, but with its bits and granularity."""
    dumped = spec.model_dump(mode="json")
    defaults = PalettizationSpec().model_dump(mode="json")
    granularity = {key: value for key, value in dumped["granularity"].items() if value is not None}
    others = {key: value for key, value in dumped.items() if value != defaults.get(key)}
    return {**others, "n_bits": spec.n_bits, "granularity": granularity}
