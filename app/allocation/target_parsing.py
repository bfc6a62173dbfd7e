"""Targets as the command line has them, and their sizes in bytes."""

import math
from collections.abc import Sequence

from pydantic import ValidationError

from palettery.app.errors import BadInput
from palettery.schemas.checkpoint import Checkpoint
from palettery.schemas.config.errors import describe_errors
from palettery.schemas.targets import Target


def parse_target(texts: Sequence[str]) -> Target:
    """Return the target in a text, such as `16MB`, `3.5bpw` or `0.25x`.

    Raises:
        BadInput: there are several, or one of a form or with a unit that is not known, or of a
            size out of range.
    """
    if len(texts) != 1:
        raise BadInput(f"{len(texts)} targets were given: {', '.join(texts)}; give one")
    try:
        return Target.model_validate(texts[0])
    except ValidationError as error:
        reason = describe_errors(error, Target)[0]
        where = f"the target {texts[0]!r} is out of range: " if reason.pointer else ""
        raise BadInput(f"{where}{reason.detail}") from error


def target_bytes(target: Target, checkpoint: Checkpoint) -> int | None:
    """Return the largest size that a target allows; None if it is an error."""
    if target.size_bytes is not None:
        return target.size_bytes
    if target.size_ratio is not None:
        return math.floor(target.size_ratio * checkpoint.tensor_bytes())
    if target.bits_per_weight is not None:
        weights = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors)
        return math.floor(target.bits_per_weight * weights / 8)
    return None
