"""Sensitivities: the weight of each value's error, in a file uploaded with the model."""

import re
from collections.abc import Iterator, Sequence

from palettery.app.errors import MAX_LISTED, InvalidSensitivities
from palettery.app.planning.paths import json_pointer
from palettery.app.planning.suggestions import DottedNames
from palettery.app.planning.tensor_rules import FLOAT_BYTES
from palettery.schemas.checkpoint import Checkpoint, StoredTensor
from palettery.schemas.plan import Plan
from palettery.schemas.problem import InvalidField

_PARAMETRIZED = re.compile(r"(.*\.)?parametrizations\.([^.]+)\.original", re.DOTALL)
"""Name that coreai-opt's `save_sensitivities` gives to a parametrized parameter."""
_MAX_NAMES = 100
"""Most tensors that a warning names."""


def match_sensitivities(uploaded: Checkpoint, model: Checkpoint) -> Checkpoint:
    """Return the sensitivities under the names of the model's tensors.

    `x.parametrizations.weight.original` means `x.weight`, unless that is a tensor's name.

    Raises:
        InvalidSensitivities: lists those without a tensor in the model, of another shape than the
            tensor, not of floating point, or second for one tensor.
    """
    return _Matching(uploaded, model).run()


def apply_sensitivities(plan: Plan, sensitivities: Checkpoint) -> Plan:
    """Return the plan with palettized tensors weighted by their sensitivities.

    A palettized tensor without sensitivities counts all weights alike, as in coreai-opt.
    Sensitivities of a kept tensor are not used. The plan warns of both.

    Source: coreai-opt 0.4.0, `_set_sensitivities_in_fake_palettize_modules`.
    """
    provided = {tensor.name for tensor in sensitivities.tensors}
    palettized = {tensor.name for tensor in plan.palettized()}
    weighted = provided & palettized
    missing = [name for name in palettized if name not in provided]
    unused = [name for name in provided if name not in palettized]
    return plan.model_copy(
        update={
            "tensors": tuple(
                tensor.model_copy(update={"weighted": tensor.name in weighted})
                for tensor in plan.tensors
            ),
            "warnings": (*plan.warnings, *_warnings(missing, unused)),
            "sensitivities_sha256": {
                file.name: file.sha256 for file in sensitivities.files if file.sha256
            },
        }
    )


def _warnings(missing: Sequence[str], unused: Sequence[str]) -> Iterator[str]:
    if missing:
        yield (
            "these palettized tensors have no sensitivities, so all their weights "
            f"count alike: {_list_names(missing)}"
        )
    if unused:
        yield (
            "the sensitivities of these tensors are not used, since the tensors are kept: "
            f"{_list_names(unused)}"
        )


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(sorted(names)[:_MAX_NAMES]) + more


class _Matching:
    """One match of uploaded sensitivities with the tensors of a model; collects all errors."""

    def __init__(self, uploaded: Checkpoint, model: Checkpoint) -> None:
        self._uploaded = uploaded
        self._tensors = {
            name: tensor for tensor in model.tensors for name in (tensor.name, *tensor.aliases)
        }
        self._similar_names = DottedNames(self._tensors)
        self._matches: dict[str, tuple[str, StoredTensor]] = {}
        self._errors: list[InvalidField] = []

    def run(self) -> Checkpoint:
        for sensitivity in self._uploaded.tensors:
            for name in (sensitivity.name, *sensitivity.aliases):
                if (problem := self._try_match(name, sensitivity)) is not None:
                    location = json_pointer("sensitivities", name)
                    self._errors.append(InvalidField(pointer=location, detail=problem))
        if self._errors:
            count = len(self._errors)
            raise InvalidSensitivities.about(
                f"{count:,} {'sensitivity does' if count == 1 else 'sensitivities do'} not fit the "
                "model; send one float tensor per weight, of its name and shape",
                self._errors,
            )
        tensors = tuple(
            sensitivity.model_copy(update={"name": name, "aliases": ()})
            for name, (_, sensitivity) in self._matches.items()
        )
        return self._uploaded.model_copy(update={"tensors": tensors, "modules": (), "ops": ()})

    def _try_match(self, name: str, sensitivity: StoredTensor) -> str | None:
        """Record a sensitivity for its tensor; return why it cannot be used, or None."""
        parametrized = _PARAMETRIZED.fullmatch(name)
        original_name = (parametrized[1] or "") + parametrized[2] if parametrized else name
        tensor = self._tensors.get(name) or self._tensors.get(original_name)
        if tensor is None:
            return f"the model has no tensor of this name{self._hint(original_name)}"
        if sensitivity.dtype not in FLOAT_BYTES:
            return f"it has the dtype {sensitivity.dtype}; {', '.join(FLOAT_BYTES)} are allowed"
        if sensitivity.shape != tensor.shape:
            return f"it has the shape {list(sensitivity.shape)}, the tensor {list(tensor.shape)}"
        first_name, first = self._matches.setdefault(tensor.name, (name, sensitivity))
        if first is not sensitivity:
            return f"it means the same tensor as {first_name}, {tensor.name}; send one of them"
        return None

    def _hint(self, name: str) -> str:
        """Return a suggestion of similar names, only for listed errors: searches are slow."""
        similar = self._similar_names.similar(name) if len(self._errors) < MAX_LISTED else ()
        return f"; did you mean {' or '.join(similar)}?" if similar else ""
