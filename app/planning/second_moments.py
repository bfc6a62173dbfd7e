"""Second moments of layers' inputs, which direct error feedback."""

from dataclasses import dataclass

from palettery.schemas.checkpoint import Checkpoint, StoredTensor
from palettery.schemas.plan import Plan, PlannedTensor

MAX_COLUMNS = 16_384
"""Maximum number of inputs of a layer for error feedback; a worker needs 24 bytes per pair."""
_MAX_NAMES = 100


@dataclass(frozen=True)
class SecondMoments:
    """Second moments under the names of a model's tensors, and their store."""

    checkpoint: Checkpoint
    url: str
    """URL of the object store with their file."""


def apply_second_moments(plan: Plan, moments: Checkpoint) -> Plan:
    """Return the plan with error feedback for palettized tensors that have second moments.

    The second moments have the names of the model's tensors.
    """
    by_name = {tensor.name: tensor for tensor in moments.tensors}
    too_wide = sorted(
        tensor.name
        for tensor in plan.palettized()
        if tensor.name in by_name and by_name[tensor.name].shape[-1] > MAX_COLUMNS
    )

    def has_feedback(tensor: PlannedTensor) -> bool:
        moment = by_name.get(tensor.name)
        return tensor.action == "palettize" and moment is not None and _fits(tensor, moment)

    return plan.model_copy(
        update={
            "tensors": tuple(
                tensor.model_copy(update={"feedback": has_feedback(tensor)})
                for tensor in plan.tensors
            ),
            "warnings": (*plan.warnings, *_warnings(too_wide)),
            "second_moments_sha256": {
                file.name: file.sha256 for file in moments.files if file.sha256
            },
        }
    )


def _fits(tensor: PlannedTensor, moment: StoredTensor) -> bool:
    columns = moment.shape[-1]
    groups = moment.shape[0] if len(moment.shape) > 2 else 1
    return columns <= MAX_COLUMNS and tensor.shape[0] % groups == 0


def _warnings(too_wide: list[str]) -> list[str]:
    if not too_wide:
        return []
    more = f" and {len(too_wide) - _MAX_NAMES:,} more" if len(too_wide) > _MAX_NAMES else ""
    return [
        f"error feedback is not used for layers of more than {MAX_COLUMNS:,} inputs: "
        f"{', '.join(too_wide[:_MAX_NAMES])}{more}"
    ]
