"""Comparison of outputs before and after palettization, over all samples and for each of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.functional import cross_entropy, log_softmax

from palettery.app.calibration.output_directions import is_logits
from palettery.app.inference.inputs import LABEL_IGNORED, Batch
from palettery.schemas.evaluation import (
    ComparedOutput,
    ComparedSample,
    LogitsComparison,
    SampleStatistics,
)

PERCENTILE = 0.05
"""Percentile of the statistics over samples, as a fraction."""


@dataclass
class OutputComparison:
    """Sums for one output, before and after palettization, over the batches that were added."""

    name: str
    is_logits: bool
    shape: tuple[int, ...] = ()
    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    """Sums of before^2, after^2, before*after and (after - before)^2."""
    max_error: float = 0.0
    by_sample: dict[int, list[float]] = field(default_factory=dict)
    """Index of a sample -> its SNR in dB and its cosine similarity."""
    logits: torch.Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    """Number of positions and of equal top classes, and sum of Kullback-Leibler divergences."""
    labels: torch.Tensor = field(default_factory=lambda: torch.zeros(5, dtype=torch.float64))
    """Number of labels, of correct predictions before and after, and sums of both losses."""

    def add(self, before: torch.Tensor, after: torch.Tensor, batch: Batch) -> None:
        """Add the outputs of a batch."""
        has_samples = before.dim() > 0 and len(before) == len(batch.samples)
        count = len(before) if has_samples else int(before.dim() > 0)
        previous_count = self.shape[0] if self.shape and has_samples else 0
        self.shape = (previous_count + count, *before.shape[1:]) if before.dim() else ()
        for row in range(len(batch.samples) if has_samples else 1):
            old, new = (batch.without_padding(output, row).double() for output in (before, after))
            sums = torch.stack(
                [
                    (old * old).sum(),
                    (new * new).sum(),
                    (old * new).sum(),
                    (new - old).square().sum(),
                ]
            )
            self.sums += sums
            if old.numel():
                self.max_error = max(self.max_error, float((new - old).abs().max()))
            self.by_sample[batch.samples[row]] = [snr_db(sums), cosine(sums)]
            if self.is_logits and old.dim():
                self._add_logits(old, new, None if batch.labels is None else batch.labels[row])

    def _add_logits(
        self, old: torch.Tensor, new: torch.Tensor, labels: torch.Tensor | None
    ) -> None:
        old, new = (logits.reshape(-1, logits.shape[-1]) for logits in (old, new))
        before, after = log_softmax(old, -1), log_softmax(new, -1)
        num_agreeing = (old.argmax(-1) == new.argmax(-1)).sum()
        divergence = (before.exp() * (before - after)).sum()
        self.logits += torch.stack([old.new_tensor(len(old)), num_agreeing, divergence])
        if labels is None:
            return
        labels = labels.reshape(-1)[: len(old)]
        is_used = labels != LABEL_IGNORED
        labels, old, new = labels[is_used], old[: len(labels)][is_used], new[: len(labels)][is_used]
        num_correct = [(logits.argmax(-1) == labels).sum() for logits in (old, new)]
        losses = [cross_entropy(logits, labels, reduction="sum") for logits in (old, new)]
        self.labels += torch.stack([old.new_tensor(len(labels)), *num_correct, *losses])

    def result(self, *, per_sample: bool) -> ComparedOutput:
        """Return the comparison."""
        pairs = [self.by_sample[sample] for sample in sorted(self.by_sample)]
        snrs, cosines = zip(*pairs, strict=True)
        samples = tuple(
            ComparedSample(snr_db=_none_if_infinite(snr), cosine=cos) for snr, cos in pairs
        )
        overall = snr_db(self.sums)
        return ComparedOutput(
            name=self.name,
            shape=self.shape,
            snr_db=overall if math.isfinite(overall) else None,
            cosine=cosine(self.sums),
            max_error=self.max_error,
            sample_cosine=statistics(cosines),
            sample_snr_db=statistics(snrs),
            logits=self._logits() if self.logits[0] else None,
            samples=samples if per_sample else None,
        )

    def _logits(self) -> LogitsComparison:
        positions, num_agreeing, divergence = self.logits.tolist()
        count, *sums = self.labels.tolist()
        accuracy_before, accuracy_after, loss_before, loss_after = (
            total / count if count else None for total in sums
        )
        return LogitsComparison(
            top1_agreement=num_agreeing / positions,
            kl_divergence=max(0.0, divergence / positions),
            accuracy_before=accuracy_before,
            accuracy_after=accuracy_after,
            loss_before=loss_before,
            loss_after=loss_after,
        )


def logits_outputs(outputs: Mapping[str, torch.Tensor], batch: Batch) -> set[str]:
    """Return the names of outputs that are logits: by name, or the only one if there are labels."""
    floating = [name for name, value in outputs.items() if value.is_floating_point()]
    named = {name for name in floating if is_logits(name)}
    return named or (set(floating) if batch.labels is not None and len(floating) == 1 else set())


def statistics(values: Sequence[float]) -> SampleStatistics:
    """Return mean, 5th percentile and minimum; None for values that are infinite."""
    ordered = sorted(values)
    mean = math.fsum(values) / len(values)
    percentile = ordered[math.ceil(PERCENTILE * len(values)) - 1]
    return SampleStatistics(
        mean=_none_if_infinite(mean),
        p5=_none_if_infinite(percentile),
        min=_none_if_infinite(ordered[0]),
    )


def snr_db(sums: torch.Tensor) -> float:
    """Return the signal-to-noise ratio from `OutputComparison.sums`; infinite without error."""
    signal, noise = float(sums[0]), float(sums[3])
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def cosine(sums: torch.Tensor) -> float:
    """Return the cosine similarity from `OutputComparison.sums`; 1 if both are zero, 0 if one."""
    before, after, product, noise = sums.tolist()
    length = math.sqrt(before) * math.sqrt(after)
    return product / length if length else float(noise == 0)


def _none_if_infinite(value: float) -> float | None:
    return value if math.isfinite(value) else None
