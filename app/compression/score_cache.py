"""Scores of tensors in the object store, by content: no kernel runs twice for the same choice.

The name of a tensor's scores is the digest of everything that they depend on besides the choices:
bytes and layout of the tensor and of its sensitivities, K-means settings, and the kernels' version.
The owner is part of it, so that response times do not reveal what others have uploaded.
"""

import hashlib
import json
from collections.abc import Sequence

from pydantic import ValidationError

from palettery.app.compression.cancellation import CancellationCheck
from palettery.app.compression.scores import score_tensor
from palettery.app.compression.sources import Sources
from palettery.app.compression.task import verified_reader
from palettery.app.errors import ObjectMissing
from palettery.app.storage.base import ObjectReader, Storage
from palettery.app.storage.open import shared_storage
from palettery.kernels import fingerprint
from palettery.schemas.targets import TensorScores
from palettery.schemas.tasks import ScoreTask, StoredRows, TensorToScore

SCORES = "scores"
"""Folder of the scores of all tensors."""
_VERSION = 1
"""Increased by incompatible changes of the stored scores."""


def run_score_task(task: ScoreTask, threads: int | None = None) -> tuple[str, ...]:
    """Score the tensors of a task, and return the paths of their scores.

    Raises:
        Cancelled: see `CancellationCheck`.
        InvalidSensitivities: some are negative or not finite.
    """
    store = shared_storage(task.store_url)
    check_cancelled = CancellationCheck(store, task.cancel_path)
    source = verified_reader(store, task.tensors)
    paths = []
    for tensor in task.tensors:
        check_cancelled()
        paths.append(_complete_scores(store, source, tensor, task.owner, threads))
    return tuple(paths)


def read_scores(store: Storage, path: str) -> TensorScores:
    """Return the scores of a tensor.

    Raises:
        ObjectMissing: there are none.
    """
    return TensorScores.model_validate_json(bytes(store.read(path)))


def _complete_scores(
    store: Storage, source: ObjectReader, tensor: TensorToScore, owner: str, threads: int | None
) -> str:
    """Return the path of a tensor's scores, after computing those that are missing.

    They are written even if none is missing, since they expire by the age of their file.
    """
    content = Sources(source, source, source).content_sha256(tensor)
    path = f"{SCORES}/{_key(tensor, content, owner)}.json"
    scores = _read_or_empty(store, path)
    scored_specs = {choice.spec for choice in scores.choices}
    missing = [(spec, clustering) for spec, clustering in tensor.specs if spec not in scored_specs]
    if missing and scores.reason is None:
        new = score_tensor(
            tensor.name, tensor, source, tensor.sensitivity, source, missing, threads
        )
        scores = new.model_copy(update={"choices": (*scores.choices, *new.choices)})
    store.write(path, scores.model_dump_json().encode())
    return path


def _read_or_empty(store: Storage, path: str) -> TensorScores:
    try:
        return read_scores(store, path)
    except (ObjectMissing, ValidationError):
        return TensorScores()


def _key(tensor: TensorToScore, content: str, owner: str) -> str:
    sensitivity = tensor.sensitivity
    settings = {
        clustering.model_copy(update={"axis": 0, "group_size": None}).model_dump_json()
        for _, clustering in tensor.specs
    }
    parts: Sequence[object] = (
        _VERSION,
        fingerprint(),
        owner,
        content,
        _layout(tensor),
        sensitivity and _layout(sensitivity),
        sorted(settings),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _layout(rows: StoredRows) -> Sequence[object]:
    return rows.dtype, rows.shape, rows.strides
