"""Documents of jobs with targets in the store: their requests, scores and curves."""

from collections.abc import Mapping
from typing import Final

from pydantic import TypeAdapter, ValidationError

from palettery.app.allocation.allocate import Allocator
from palettery.app.allocation.scoring import merged_scores
from palettery.app.compression.job_folder import stop_path
from palettery.app.compression.score_cache import read_scores
from palettery.app.errors import ObjectMissing
from palettery.app.storage.base import Storage
from palettery.schemas.targets import CurvePoint, ModelScores
from palettery.schemas.tasks import ScoreTask, TargetRequest

_REQUEST: Final = "target.json"
_SCORING: Final = "scoring.json"
_KNOWN: Final = "known-scores.json"
"""Scores that existed when the job was submitted: a copy, since models can be deleted."""
_TASKS = TypeAdapter(list[ScoreTask])
_CURVE = TypeAdapter(tuple[CurvePoint, ...])


def write_target(
    store: Storage,
    prefix: str,
    request: TargetRequest,
    tasks: list[ScoreTask],
    known: ModelScores | None,
) -> int:
    """Store what a job needs to choose its config; return its size in bytes."""
    documents = {
        _REQUEST: request.model_dump_json().encode(),
        _SCORING: _TASKS.dump_json(tasks),
    }
    if known is not None:
        documents[_KNOWN] = known.model_dump_json().encode()
    for name, document in documents.items():
        store.write(f"{prefix}/{name}", document)
    return sum(map(len, documents.values()))


def read_target(store: Storage, prefix: str) -> TargetRequest:
    """Return the stored request of a job with a target."""
    return TargetRequest.model_validate_json(bytes(store.read(f"{prefix}/{_REQUEST}")))


def read_score_tasks(store: Storage, prefix: str, attempt: int) -> list[ScoreTask]:
    """Return the tasks that score a job's model, with the current URL of the store."""
    tasks = _TASKS.validate_json(bytes(store.read(f"{prefix}/{_SCORING}")))
    update = {
        "store_url": store.url,
        "source_url": store.url,
        "cancel_path": stop_path(prefix, attempt),
    }
    return [task.model_copy(update=update) for task in tasks]


def read_model_scores(store: Storage, path: str) -> ModelScores | None:
    """Return the scores of a model; None if there are none."""
    try:
        return ModelScores.model_validate_json(bytes(store.read(path)))
    except (ObjectMissing, ValidationError):
        return None


def collect_scores(
    store: Storage, request: TargetRequest, prefix: str, paths: Mapping[str, str]
) -> ModelScores:
    """Return the scores of the whole model, and store them for other targets.

    `paths` are those of the scores of each tensor that was scored for the job.
    """
    new = ModelScores(
        weighted=request.sensitivities is not None,
        tensors={name: read_scores(store, path) for name, path in paths.items()},
    )
    for path in (f"{prefix}/{_KNOWN}", request.scores_path):
        new = merged_scores(read_model_scores(store, path), new)
    if paths:
        store.write(request.scores_path, new.model_dump_json().encode())
    return new


def stored_curve(
    store: Storage, path: str, allocator: Allocator, *, computes_curve: bool
) -> tuple[CurvePoint, ...] | None:
    """Return the stored curve; without one, compute and store it if `computes_curve`, else None."""
    try:
        return _CURVE.validate_json(bytes(store.read(path)))
    except (ObjectMissing, ValidationError):
        if not computes_curve:
            return None
    curve = allocator.curve()
    store.write(path, _CURVE.dump_json(curve))
    return curve
