"""Comparison of a runnable export's outputs with torch's, on random inputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from palettery.app.artifacts.export.live_model import call
from palettery.app.errors import InvalidArtifact

TOLERANCE, EPSILONS = 1e-4, 16
"""Largest difference from torch: relative to the largest value, and in epsilons."""


def random_inputs(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """Return random inputs of the model; integers are 0 or 1, so that indices are in range."""
    numbers = torch.Generator().manual_seed(0)
    inputs = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs:
            like = node.meta["val"]
            shape = [_length(length, program) for length in like.shape]
            if like.dtype.is_floating_point:
                inputs[node.name] = torch.randn(shape, generator=numbers).to(like.dtype)
            else:
                inputs[node.name] = torch.randint(0, 2, shape, generator=numbers).to(like.dtype)
    return inputs


def check_outputs(
    program: ExportedProgram,
    inputs: dict[str, torch.Tensor],
    outputs: Sequence[NDArray[Any]],
    model: str,
) -> None:
    """Compare the outputs of a model, which a message names, with torch's.

    Raises:
        InvalidArtifact: an output differs.
    """
    expected = pytree.tree_leaves(call(program, inputs))
    for number, (theirs, ours) in enumerate(
        zip(outputs, map(torch.as_tensor, expected), strict=True)
    ):
        precision = torch.finfo(ours.dtype).eps if ours.is_floating_point() else 0.0
        reference = ours.detach().double().numpy()
        output = theirs.astype(np.float64).reshape(reference.shape)
        largest = np.abs(reference[np.isfinite(reference)]).max(initial=1.0)
        limit = max(TOLERANCE, EPSILONS * precision) * largest
        is_same = (output == reference) | (np.isnan(output) & np.isnan(reference))
        with np.errstate(invalid="ignore"):
            is_near = np.abs(output - reference) <= limit
        if not np.all(is_same | is_near):
            raise InvalidArtifact(f"output {number} of the {model} model differs from torch's")


def _length(length: Any, program: ExportedProgram) -> int:
    """Return the length of an axis; of a dynamic one, a small valid length."""
    if isinstance(length, int):
        return length
    least = {
        symbol: max(2, int(bounds.lower)) for symbol, bounds in program.range_constraints.items()
    }
    return int(length.node.expr.subs(least))
