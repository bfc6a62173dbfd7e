"""Strict mode: a job fails unless all of its config can be applied."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from palettery.app.errors import StrictViolation
from palettery.app.planning.module_rules import ModuleRule, ModuleTree
from palettery.app.planning.paths import json_pointer
from palettery.app.planning.patterns import Patterns
from palettery.app.planning.tensor_rules import (
    ALL,
    TensorRule,
    can_be_palettized,
    find_tensor_rules,
)
from palettery.schemas.checkpoint import Checkpoint
from palettery.schemas.plan import Plan, PlannedTensor
from palettery.schemas.problem import InvalidField

_PATH_FIELD = re.compile(r'(\w+)(?:\[("(?:[^"\\]|\\.)*")\])?\.?')
"""One field of a path in the config, with its key if it has one."""

MAX_NAMED_TENSORS = 3
"""Maximum number of tensors that one error lists by name."""


def check_strict(plan: Plan) -> None:
    """Check that every config key matches something, and every tensor fits its rule.

    Raises:
        StrictViolation: lists each key that matches nothing, and each kind of incompatibility.
    """
    errors = [*_unmatched_keys(plan), *_incompatible_tensors(plan)]
    if errors:
        keys = len(plan.unmatched)
        tensors = sum(tensor.incompatible for tensor in plan.tensors)
        raise StrictViolation.about(
            f"strict: {keys:,} config {'key matches' if keys == 1 else 'keys match'} nothing, and "
            f"{tensors:,} {'tensor' if tensors == 1 else 'tensors'} cannot take what a rule asks "
            "for; fix the config, or send it without strict",
            errors,
        )


def find_inapplicable_rules(
    checkpoint: Checkpoint,
    tree: ModuleTree,
    module_rules: Mapping[str, ModuleRule],
    patterns: Patterns,
) -> dict[str, TensorRule]:
    """Return name -> rule of tensors that a rule names but no spec can palettize, such as integers.

    `*` selects only tensors that can be palettized. To apply the same precedence, the rules are
    resolved as if these tensors could be palettized, too.
    """
    substitutes = {"dtype": "F32", "shape": (2,)}
    unpalettizable = [
        tensor.model_copy(update=substitutes)
        for tensor in checkpoint.tensors
        if not can_be_palettized(tensor)
    ]
    if not unpalettizable:
        return {}
    names = {name for tensor in unpalettizable for name in (tensor.name, *tensor.aliases)}
    ops = [op for op in checkpoint.ops if not names.isdisjoint(op.states.values())]
    stand_in = checkpoint.model_copy(update={"tensors": tuple(unpalettizable), "ops": tuple(ops)})
    rules = find_tensor_rules(stand_in, tree, module_rules, patterns)
    return {
        name: rule
        for name, rule in rules.by_tensor.items()
        if rule.spec is not None
        and rule.path is not None
        and not rule.path.endswith(f"[{json.dumps(ALL)}]")
    }


def _unmatched_keys(plan: Plan) -> Iterator[InvalidField]:
    for key in plan.unmatched:
        hint = f"; did you mean {' or '.join(key.suggestions)}?" if key.suggestions else ""
        yield InvalidField(pointer=_pointer(key.path), detail=key.reason + hint)


def _incompatible_tensors(plan: Plan) -> Iterator[InvalidField]:
    """Yield one error for all tensors that are incompatible with a rule for the same reason."""
    groups: dict[tuple[str, str], list[PlannedTensor]] = defaultdict(list)
    for tensor in plan.tensors:
        if tensor.incompatible:
            groups[tensor.rule or "", tensor.reason or ""].append(tensor)
    for (rule, reason), tensors in groups.items():
        names = ", ".join(
            f"{tensor.name} {list(tensor.shape)}" for tensor in tensors[:MAX_NAMED_TENSORS]
        )
        more = len(tensors) - MAX_NAMED_TENSORS
        others = f" and {more:,} more" if more > 0 else ""
        yield InvalidField(
            pointer=_pointer(rule),
            detail=f"{names}{others} cannot take this: {reason}; give what does not fit a spec "
            "that fits, or null to keep it",
        )


def _pointer(path: str) -> str:
    """Return the JSON pointer of a path as the plan writes it."""
    parts = [
        part
        for field, key in _PATH_FIELD.findall(path)
        for part in ((field, json.loads(key)) if key else (field,))
    ]
    return json_pointer(*parts)
