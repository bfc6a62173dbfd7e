"""Scores of a model: of every tensor that a target may change."""

import hashlib
import json
from collections.abc import Callable

from palettery.app.allocation.candidates import Candidate, Candidates
from palettery.app.compression.scores import score_tensor
from palettery.app.errors import InvalidSensitivities
from palettery.app.planning.incompatibility import resolve_clustering
from palettery.app.storage.base import ObjectReader
from palettery.kernels import fingerprint
from palettery.schemas.checkpoint import Checkpoint, StoredTensor
from palettery.schemas.config import PalettizationSpec
from palettery.schemas.plan import Clustering
from palettery.schemas.targets import ModelScores, ScoredChoice, TensorScores
from palettery.schemas.tasks import StoredRows, TensorToScore

Advance = Callable[[int, int], None]
"""Progress callback, called with (bytes done, total bytes)."""
_NAMED = 5
"""Tensors that a message names."""


def score_model(
    candidates: Candidates,
    checkpoint: Checkpoint,
    source: ObjectReader,
    sensitivities: Checkpoint | None,
    weighting: ObjectReader | None,
    advance: Advance,
) -> ModelScores:
    """Return the scores of all candidates, tensor by tensor.

    `sensitivities` have the names of the model's tensors; `weighting` is their store.

    Raises:
        InvalidSensitivities: a candidate has none while others do, or some are invalid.
    """
    tensors = tensors_to_score(candidates, checkpoint, sensitivities)
    total = sum(each.size_bytes for each in tensors)
    done, scores = 0, {}
    advance(0, total)
    for each in tensors:
        scores[each.name] = score_tensor(
            each.name, each, source, each.sensitivity, weighting or source, each.specs
        )
        done += each.size_bytes
        advance(done, total)
    return ModelScores(weighted=sensitivities is not None, tensors=scores)


def tensors_to_score(
    candidates: Candidates, checkpoint: Checkpoint, sensitivities: Checkpoint | None
) -> list[TensorToScore]:
    """Return the candidates with the specs that each may get, and the places of their bytes.

    Raises:
        InvalidSensitivities: a candidate has none while others do.
    """
    weights = _weights(candidates, sensitivities)
    tensors = []
    for name, candidate in candidates.by_name.items():
        importance = weights.get(name)
        tensors.append(
            TensorToScore(
                **dict(_rows(candidate.stored, checkpoint)),
                name=name,
                sensitivity=_rows(importance, sensitivities)
                if importance and sensitivities
                else None,
                specs=tuple((spec, _clustering(candidate, spec)) for spec in candidate.specs),
            )
        )
    return tensors


def unscored(candidates: Candidates) -> ModelScores:
    """Return scores without errors, from which sizes can be computed."""
    return ModelScores(
        weighted=False,
        tensors={
            name: TensorScores(
                choices=tuple(
                    ScoredChoice(spec=spec, error=0.0, size_bytes=0) for spec in candidate.specs
                )
            )
            for name, candidate in candidates.by_name.items()
        },
    )


def is_scored(candidates: Candidates, scores: ModelScores) -> bool:
    """Return whether scores have every spec of every candidate."""
    return all(is_tensor_scored(each, scores) for each in candidates.by_name.values())


def is_tensor_scored(candidate: Candidate, scores: ModelScores) -> bool:
    """Return whether scores have every spec of a tensor, or say that it cannot be palettized."""
    of_tensor = scores.tensors.get(candidate.stored.name)
    if of_tensor is None:
        return False
    there = {choice.spec for choice in of_tensor.choices}
    return of_tensor.reason is not None or there.issuperset(candidate.specs)


def merged_scores(before: ModelScores | None, new: ModelScores) -> ModelScores:
    """Return scores with those of earlier choices."""
    if before is None:
        return new
    tensors = dict(before.tensors)
    for name, scores in new.tensors.items():
        there = {choice.spec for choice in scores.choices}
        others = tensors.get(name, scores).choices
        choices = (*scores.choices, *(each for each in others if each.spec not in there))
        tensors[name] = scores.model_copy(update={"choices": choices})
    return new.model_copy(update={"tensors": tensors})


def settings_sha256(
    candidates: Candidates, checkpoint: Checkpoint, sensitivities: Checkpoint | None
) -> str:
    """Return the SHA-256 of all that scores depend on, but the choices and the tensors."""
    settings = {
        name: sorted(
            {
                _clustering(candidate, spec)
                .model_copy(update={"axis": 0, "group_size": None})
                .model_dump_json()
                for spec in candidate.specs
            }
        )
        for name, candidate in candidates.by_name.items()
    }
    distinct = {tuple(each) for each in settings.values() if each}
    key = {
        "kernels": fingerprint(),
        "files": [file.sha256 for file in checkpoint.files],
        "sensitivities": [file.sha256 for file in sensitivities.files] if sensitivities else None,
        "settings": settings if len(distinct) > 1 else sorted(distinct),
    }
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()


def scores_sha256(
    candidates: Candidates, checkpoint: Checkpoint, sensitivities: Checkpoint | None
) -> str:
    """Return the SHA-256 of all that scores depend on: files, specs and kernels."""
    key = {
        "kernels": fingerprint(),
        "files": [file.sha256 for file in checkpoint.files],
        "sensitivities": [file.sha256 for file in sensitivities.files] if sensitivities else None,
        "specs": {
            name: [
                (spec.model_dump_json(), _clustering(candidate, spec).model_dump_json())
                for spec in candidate.specs
            ]
            for name, candidate in candidates.by_name.items()
        },
    }
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()


def _weights(candidates: Candidates, sensitivities: Checkpoint | None) -> dict[str, StoredTensor]:
    if sensitivities is None:
        return {}
    weights = {tensor.name: tensor for tensor in sensitivities.tensors}
    lacking = [name for name in candidates.by_name if name not in weights]
    if lacking:
        more = f" and {len(lacking) - _NAMED:,} more" if len(lacking) > _NAMED else ""
        raise InvalidSensitivities(
            f"{len(lacking)} of the tensors that the target may change have no sensitivities, so "
            f"their errors cannot be compared with the others': {', '.join(lacking[:_NAMED])}{more}"
            "; calibrate them, too, or set them to null in the config"
        )
    return weights


def _clustering(candidate: Candidate, spec: PalettizationSpec) -> Clustering:
    return resolve_clustering(spec, candidate.config, candidate.op_type)


def _rows(stored: StoredTensor, checkpoint: Checkpoint) -> StoredRows:
    file = checkpoint.files[stored.file]
    return StoredRows(
        dtype=stored.dtype,
        shape=stored.shape,
        strides=stored.strides,
        path=file.path,
        file_sha256=file.sha256,
        file_name=file.name,
        offset=stored.offset,
        size_bytes=stored.size_bytes,
    )
