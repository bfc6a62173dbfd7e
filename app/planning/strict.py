"""Strict requests: everything that the config asks for is done, or nothing is."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from palettery.app.errors import StrictViolation
from palettery.app.planning.module_rules import ModuleTree, Rules
from palettery.app.planning.paths import pointer
from palettery.app.planning.patterns import Patterns
from palettery.app.planning.tensor_rules import ALL, Decision, can_be_palettized, decide
from palettery.schemas.checkpoint import Checkpoint
from palettery.schemas.plan import Plan, PlannedTensor
from palettery.schemas.problem import InvalidField

_STEP = re.compile(r'(\w+)(?:\[("(?:[^"\\]|\\.)*")\])?\.?')
"""One field of a path into the config, with its key when it has one."""

NAMED = 3
"""Tensors of one fault that are listed by name."""


def check_strict(plan: Plan) -> None:
    """That every config key matched, and that every tensor fits what a rule asks for it.

    Raises:
        StrictViolation: one entry for each key that matches nothing, and for each kind of misfit.
    """
    faults = [*_idle_keys(plan), *_unfit_tensors(plan)]
    if faults:
        keys = len(plan.unmatched)
        tensors = sum(tensor.incompatible for tensor in plan.tensors)
        raise StrictViolation.about(
            f"strict: {keys:,} config {'key matches' if keys == 1 else 'keys match'} nothing, and "
            f"{tensors:,} {'tensor' if tensors == 1 else 'tensors'} cannot take what a rule asks "
            "for; mend the config, or send it without strict",
            faults,
        )


def asked_in_vain(
    checkpoint: Checkpoint, tree: ModuleTree, governed: Mapping[str, Rules], patterns: Patterns
) -> dict[str, Decision]:
    """What rules ask by exact name for tensors that no spec can palettize, such as integers.

    `*` asks only for what can be palettized. The rules are asked as if the tensors were other
    ones, so that the same precedence holds for them.
    """
    as_if = {"dtype": "F32", "shape": (2,)}
    unfit = [
        tensor.model_copy(update=as_if)
        for tensor in checkpoint.tensors
        if not can_be_palettized(tensor)
    ]
    if not unfit:
        return {}
    names = {name for tensor in unfit for name in (tensor.name, *tensor.aliases)}
    reading = [op for op in checkpoint.ops if not names.isdisjoint(op.states.values())]
    asked = checkpoint.model_copy(update={"tensors": tuple(unfit), "ops": tuple(reading)})
    return {
        name: decision
        for name, decision in decide(asked, tree, governed, patterns).tensors.items()
        if decision.spec is not None
        and decision.rule is not None
        and not decision.rule.endswith(f"[{json.dumps(ALL)}]")
    }


def _idle_keys(plan: Plan) -> Iterator[InvalidField]:
    for key in plan.unmatched:
        hint = f"; did you mean {' or '.join(key.suggestions)}?" if key.suggestions else ""
        yield InvalidField(pointer=_pointer(key.path), detail=key.reason + hint)


def _unfit_tensors(plan: Plan) -> Iterator[InvalidField]:
    """One entry for all tensors that cannot take the same rule for the same reason."""
    alike: dict[tuple[str, str], list[PlannedTensor]] = defaultdict(list)
    for tensor in plan.tensors:
        if tensor.incompatible:
            alike[tensor.rule or "", tensor.reason or ""].append(tensor)
    for (rule, reason), tensors in alike.items():
        names = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in tensors[:NAMED])
        more = len(tensors) - NAMED
        others = f" and {more:,} more" if more > 0 else ""
        yield InvalidField(
            pointer=_pointer(rule),
            detail=f"{names}{others} cannot take this: {reason}; give what does not fit a spec "
            "that fits, or null to keep it",
        )


def _pointer(path: str) -> str:
    """The JSON pointer of a path as the plan writes it."""
    steps = [
        step
        for field, key in _STEP.findall(path)
        for step in ((field, json.loads(key)) if key else (field,))
    ]
    return pointer(*steps)
