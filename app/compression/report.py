"""Report of a job: the outcome, size and error of every tensor."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from palettery.app.artifacts.writer import TensorEntry
from palettery.app.compression.report_bits import palettized_bits
from palettery.app.version import SOFTWARE
from palettery.schemas.evaluation import Evaluation
from palettery.schemas.exports import Exported
from palettery.schemas.plan import Plan, PlannedTensor
from palettery.schemas.report import ModuleReport, Report, SliceOutcome, TensorReport
from palettery.schemas.targets import Allocation
from palettery.schemas.tasks import StoredSlice

MAX_REASONS = 20
"""Maximum number of reasons that are counted separately for kept tensors."""


@dataclass(frozen=True)
class ArtifactTensor:
    """One tensor of an artifact: its plan, slices, and entries to write."""

    planned: PlannedTensor
    slices: tuple[StoredSlice, ...]
    entries: tuple[TensorEntry, ...]

    @property
    def is_palettized(self) -> bool:
        """Whether every slice is palettized; if one is kept, the whole tensor is kept."""
        return bool(self.slices) and all(
            part.outcome.action == "palettized" for part in self.slices
        )

    @property
    def size_bytes(self) -> int:
        """Size in the artifact."""
        return sum(entry.size_bytes for entry in self.entries)

    @property
    def num_weights(self) -> int:
        """Number of elements of the dense tensor."""
        return math.prod(self.planned.shape)

    @property
    def num_stored(self) -> int | None:
        """Number of weights that have an index, if it is sparse; else None."""
        if not self.is_palettized or self.slices[0].outcome.stored is None:
            return None
        return sum(part.outcome.stored or 0 for part in self.slices)

    @property
    def bits(self) -> int:
        """Size in bits as coreai-opt counts it, plus the mask."""
        if not self.is_palettized:
            return 8 * self.planned.size_bytes
        mask = 0 if self.num_stored is None else self.num_weights
        return palettized_bits(self.planned, self.num_stored) + mask


def build_report(
    plan: Plan,
    pieces: Sequence[ArtifactTensor],
    digests: dict[str, str],
    exports: Sequence[Exported] = (),
    allocation: Allocation | None = None,
    evaluation: Evaluation | None = None,
) -> Report:
    """Return the report of a job: distinct tensors in the plan's order, and totals."""
    tensors = tuple(tensor_report(piece) for piece in pieces)
    palettized = [tensor for tensor in tensors if tensor.action == "palettized"]
    return Report(
        tensors=tensors,
        modules=tuple(_modules(pieces)),
        unmatched=plan.unmatched,
        warnings=plan.warnings,
        size_before_bytes=sum(tensor.size_before_bytes for tensor in tensors),
        size_after_bytes=sum(tensor.size_after_bytes for tensor in tensors),
        palettized_size_before_bytes=sum(tensor.size_before_bytes for tensor in palettized),
        palettized_size_after_bytes=sum(tensor.size_after_bytes for tensor in palettized),
        bits_per_weight=_bits_per_weight(pieces),
        artifact_sha256=digests,
        allocation=allocation,
        evaluation=evaluation,
        exports=tuple(exports),
        software=SOFTWARE,
    )


def count_keep_reasons(report: Report) -> dict[str, int]:
    """Return reason -> number of kept tensors, most frequent first; rare reasons are summed."""
    reasons = Counter(tensor.reason or "" for tensor in report.tensors if tensor.action == "kept")
    counts = dict(reasons.most_common(MAX_REASONS))
    rest = reasons.total() - sum(counts.values())
    return counts | ({"for other reasons": rest} if rest else {})


def tensor_report(piece: ArtifactTensor) -> TensorReport:
    """Return the report of one tensor."""
    planned, outcomes = piece.planned, [part.outcome for part in piece.slices]
    description = planned.model_dump(
        include={"name", "aliases", "module", "module_type", "dtype", "shape", "rule"}
    )
    sizes = {
        "size_before_bytes": planned.size_bytes,
        "size_after_bytes": piece.size_bytes,
        "bits_per_weight": _bits_per_weight([piece]),
    }
    if not piece.is_palettized:
        reason = next((outcome.reason for outcome in outcomes if outcome.reason), planned.reason)
        return TensorReport(**description, **sizes, action="kept", reason=reason)
    sse = math.fsum(outcome.sse for outcome in outcomes)
    return TensorReport(
        **description,
        **sizes,
        **_sparsity(piece),
        action="palettized",
        notes=tuple(dict.fromkeys(note for outcome in outcomes for note in outcome.notes)),
        spec=planned.spec,
        clustering=planned.clustering,
        groups=planned.groups,
        weighted=planned.weighted,
        **_outputs(planned, outcomes),
        sse=sse,
        snr_db=_snr_db(outcomes, sse),
        max_error=max(outcome.max_error for outcome in outcomes),
        seconds=math.fsum(outcome.seconds for outcome in outcomes),
        reused=all(outcome.reused for outcome in outcomes),
    )


def _outputs(planned: PlannedTensor, outcomes: Sequence[SliceOutcome]) -> dict[str, Any]:
    """Return the fields of the report about the minimized error and the expected output error."""
    errors = [outcome.output for outcome in outcomes if outcome.output is not None]
    if len(errors) < len(outcomes):
        return {"method": "sensitivities" if planned.weighted else "plain"}
    signal = math.fsum(error.signal for error in errors)
    if signal == 0:
        return {"method": "feedback"}
    return {
        "method": "feedback",
        "output_error": math.fsum(error.sse for error in errors) / signal,
        "output_error_without_feedback": math.fsum(error.plain_sse for error in errors) / signal,
    }


def _sparsity(piece: ArtifactTensor) -> dict[str, float]:
    """Return the fields of the report that only a sparse tensor has."""
    planned, num_stored = piece.planned, piece.num_stored
    if num_stored is None:
        return {}
    assert planned.spec is not None  # noqa: S101 - a palettized tensor has one
    # coreai-opt stores indices of zeros, too, except in vectors.
    coreai_opt_stored = num_stored if planned.spec.cluster_dim > 1 else piece.num_weights
    return {
        "zero_share": 1 - num_stored / piece.num_weights,
        "mask_bytes": (piece.num_weights + 7) // 8,
        "coreai_opt_bits_per_weight": palettized_bits(planned, coreai_opt_stored)
        / piece.num_weights,
    }


def _modules(pieces: Sequence[ArtifactTensor]) -> Iterator[ModuleReport]:
    by_module = defaultdict(list)
    for piece in pieces:
        by_module[piece.planned.module].append(piece)
    for name, tensors in by_module.items():
        yield ModuleReport(
            name=name,
            weights=sum(piece.num_weights for piece in tensors),
            size_before_bytes=sum(piece.planned.size_bytes for piece in tensors),
            size_after_bytes=sum(piece.size_bytes for piece in tensors),
            bits_per_weight=_bits_per_weight(tensors),
        )


def _bits_per_weight(pieces: Sequence[ArtifactTensor]) -> float:
    weights = sum(piece.num_weights for piece in pieces)
    return sum(piece.bits for piece in pieces) / weights if weights else 0.0


def _snr_db(outcomes: Sequence[SliceOutcome], sse: float) -> float | None:
    signal = math.fsum(outcome.signal for outcome in outcomes)
    return 10 * math.log10(signal / sse) if sse > 0 and signal > 0 else None
