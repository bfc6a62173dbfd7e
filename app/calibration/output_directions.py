"""Random directions in the outputs, along which gradients are taken."""

import hashlib
from collections.abc import Mapping

import torch

from palettery.app.errors import BadInput
from palettery.app.inference.inputs import Batch
from palettery.schemas.calibration import CalibrationOptions

Outputs = Mapping[str, torch.Tensor]


class OutputScales:
    """Standard deviation of each output, over the samples that were added."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, outputs: Outputs, batch: Batch) -> None:
        """Add the outputs of a batch."""
        for name, output in outputs.items():
            rows = range(len(batch.samples)) if _has_samples(output, batch) else (0,)
            for row in rows:
                values = batch.without_padding(output.detach(), row).double()
                moments = torch.stack(
                    (values.new_tensor(values.numel()), values.sum(), values.square().sum())
                )
                self._sums[name] = self._sums.get(name, torch.zeros(3).double()) + moments

    def scales(self) -> dict[str, float]:
        """Return the standard deviations; 1 for an output that never varies."""
        result = {}
        for name, (count, total, squares) in self._sums.items():
            variance = float(squares / count - (total / count).square()) if count else 0.0
            result[name] = variance**0.5 if variance > 0 else 1.0
        return result


def select_outputs(outputs: Outputs, options: CalibrationOptions) -> dict[str, torch.Tensor]:
    """Return the outputs that the sensitivities refer to, as the options say.

    Raises:
        BadInput: there are none, or an option names one that the model lacks.
    """
    floating = {name: value for name, value in outputs.items() if value.is_floating_point()}
    if unknown := [name for name in options.outputs if name not in floating]:
        raise BadInput(
            f"the model has no floating-point output {unknown[0]!r}; it has "
            f"{', '.join(map(repr, floating)) or 'none'}"
        )
    selected = {name: floating[name] for name in options.outputs or floating}
    if options.kind == "fisher" and len(selected) > 1:
        selected = {name: value for name, value in selected.items() if is_logits(name)}
    if options.kind == "fisher" and len(selected) != 1:
        raise BadInput(
            "`fisher` is for one output of logits, and the model has "
            f"{', '.join(map(repr, floating))}; name the one that counts"
        )
    if not selected:
        raise BadInput("the model has no floating-point output, so no weight has a sensitivity")
    return selected


def is_logits(name: str) -> bool:
    """Return whether the name of an output says that it is logits."""
    return "logits" in name


def random_directions(
    outputs: Outputs,
    batch: Batch,
    scales: Mapping[str, float],
    options: CalibrationOptions,
    draw: int,
) -> dict[str, torch.Tensor]:
    """Return a random direction for each output; it depends on the sample, not on its batch."""
    result = {}
    for name, output in outputs.items():
        direction = torch.zeros_like(output)
        is_unbatched = not _has_samples(output, batch)
        for row in range(1 if is_unbatched else len(batch.samples)):
            generator = _generator(f"{options.seed} {batch.samples[row]} {draw} {name}")
            values = batch.without_padding(output.detach(), row).float()
            vector = (
                _fisher_direction(values, generator)
                if options.kind == "fisher"
                else torch.randn(values.shape, generator=generator) / scales[name]
            )
            _set_sample(direction, batch, row, vector.to(output.dtype), is_unbatched=is_unbatched)
        result[name] = direction
    return result


def _has_samples(output: torch.Tensor, batch: Batch) -> bool:
    """Return whether the first axis of an output is that of the samples."""
    return output.dim() > 0 and len(output) == len(batch.samples)


def _set_sample(
    direction: torch.Tensor, batch: Batch, row: int, values: torch.Tensor, *, is_unbatched: bool
) -> None:
    """Set the values of one sample, as `Batch.real` returns them."""
    mask = batch.mask()
    if is_unbatched:
        direction.copy_(values.reshape(direction.shape))
    elif mask is not None and direction.shape[:2] == mask.shape:
        direction[row, mask[row]] = values
    else:
        direction[row] = values


def _fisher_direction(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the gradient of log p at a label drawn from p. Shapes: (..., classes) -> the same."""
    flat = logits.reshape(-1, logits.shape[-1]).softmax(-1)
    labels = torch.multinomial(flat, 1, generator=generator)
    return torch.zeros_like(flat).scatter_(1, labels, 1.0).sub_(flat).reshape(logits.shape)


def _generator(text: str) -> torch.Generator:
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
