"""Sensitivities: the weight of each value's error, in a file uploaded with the model."""

import re
from collections.abc import Iterator, Sequence

from palettery.app.errors import MOST_LISTED, InvalidSensitivities
from palettery.app.planning.paths import pointer
from palettery.app.planning.suggestions import DottedNames
from palettery.app.planning.tensor_rules import FLOAT_BYTES
from palettery.schemas.checkpoint import Checkpoint, StoredTensor
from palettery.schemas.plan import Plan
from palettery.schemas.problem import InvalidField

_PARAMETRIZED = re.compile(r"(.*\.)?parametrizations\.([^.]+)\.original", re.DOTALL)
"""Name of a parameter that coreai-opt has prepared. Source: its `save_sensitivities`."""
_NAMED = 100
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

    Source: coreai-opt 0.3.0, `_set_sensitivities_in_fake_palettize_modules`.
    """
    named = {tensor.name for tensor in sensitivities.tensors}
    palettized = {tensor.name for tensor in plan.palettized()}
    weighted = named & palettized
    lacking = [name for name in palettized if name not in named]
    unused = [name for name in named if name not in palettized]
    return plan.model_copy(
        update={
            "tensors": tuple(
                tensor.model_copy(update={"weighted": tensor.name in weighted})
                for tensor in plan.tensors
            ),
            "warnings": (*plan.warnings, *_warnings(lacking, unused)),
            "sensitivities_sha256": {
                file.name: file.sha256 for file in sensitivities.files if file.sha256
            },
        }
    )


def _warnings(lacking: Sequence[str], unused: Sequence[str]) -> Iterator[str]:
    if lacking:
        yield (
            "these palettized tensors have no sensitivities, so all their weights "
            f"count alike: {_list_names(lacking)}"
        )
    if unused:
        yield (
            "the sensitivities of these tensors are not used, since the tensors are kept: "
            f"{_list_names(unused)}"
        )


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(sorted(names)[:_NAMED]) + more


class _Matching:
    def __init__(self, uploaded: Checkpoint, model: Checkpoint) -> None:
        self._uploaded = uploaded
        self._tensors = {
            name: tensor for tensor in model.tensors for name in (tensor.name, *tensor.aliases)
        }
        self._near = DottedNames(self._tensors)
        self._matches: dict[str, tuple[str, StoredTensor]] = {}
        self._faults: list[InvalidField] = []

    def run(self) -> Checkpoint:
        for stored in self._uploaded.tensors:
            for name in (stored.name, *stored.aliases):
                if (fault := self._match(name, stored)) is not None:
                    place = pointer("sensitivities", name)
                    self._faults.append(InvalidField(pointer=place, detail=fault))
        if self._faults:
            count = len(self._faults)
            raise InvalidSensitivities.about(
                f"{count:,} {'sensitivity does' if count == 1 else 'sensitivities do'} not fit the "
                "model; send one float tensor per weight, of its name and shape",
                self._faults,
            )
        tensors = tuple(
            stored.model_copy(update={"name": name, "aliases": ()})
            for name, (_, stored) in self._matches.items()
        )
        return self._uploaded.model_copy(update={"tensors": tensors, "modules": (), "ops": ()})

    def _match(self, name: str, stored: StoredTensor) -> str | None:
        """Store a sensitivity under its tensor's first name, or return why it cannot be used."""
        prepared = _PARAMETRIZED.fullmatch(name)
        plain = (prepared[1] or "") + prepared[2] if prepared else name
        tensor = self._tensors.get(name) or self._tensors.get(plain)
        if tensor is None:
            return f"the model has no tensor of this name{self._hint(plain)}"
        if stored.dtype not in FLOAT_BYTES:
            return f"it has the dtype {stored.dtype}; {', '.join(FLOAT_BYTES)} are allowed"
        if stored.shape != tensor.shape:
            return f"it has the shape {list(stored.shape)}, the tensor {list(tensor.shape)}"
        before, same = self._matches.setdefault(tensor.name, (name, stored))
        if same is not stored:
            return f"it means the same tensor as {before}, {tensor.name}; send one of them"
        return None

    def _hint(self, name: str) -> str:
        """Suggest similar names, for listed faults only; the search takes time."""
        near = self._near.close(name) if len(self._faults) < MOST_LISTED else ()
        return f"; did you mean {' or '.join(near)}?" if near else ""
