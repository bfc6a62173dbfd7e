"""Names for results: two slices of one name are palettized alike, bit for bit.

A recipe stands for all that decides a result but the bytes. With the place of the bytes in an
uploaded file it gives the origin key, known before anything is read; with their digest the content
key, which finds the same tensor in any file.
"""

import hashlib
import json
from collections.abc import Sequence

from palettery import kernels
from palettery.app.planning.job_plan import JobPlan
from palettery.app.version import VERSION
from palettery.schemas.tasks import StoredRows, TensorSlice


def recipe(item: TensorSlice) -> str:
    """Digest of the spec, the shape and layout of the bytes, and the version of the kernels."""
    weighing = item.sensitivity
    return _digest(
        item.spec.model_dump(mode="json"),
        item.clustering.model_dump(mode="json"),
        _layout(item),
        weighing and _layout(weighing),
        kernels.fingerprint(),
    )


def origin_key(recipe: str, item: TensorSlice) -> str | None:
    """Digest of a recipe and where the bytes lie; None when their file has no digest."""
    places = [_place(rows) for rows in (item, item.sensitivity) if rows is not None]
    if any(place[0] is None for place in places):
        return None
    return _digest(recipe, places)


def content_key(recipe: str, content_sha256: str) -> str:
    """Digest of a recipe and of the bytes."""
    return _digest(recipe, content_sha256)


def request_sha256(intake: JobPlan) -> str:
    """Digest of everything that an artifact depends on: equal ones give equal artifacts."""
    return _digest(
        [(file.name, file.sha256) for file in intake.files()],
        intake.config.model_dump(mode="json"),
        intake.plan.model_dump(mode="json"),
        kernels.fingerprint(),
        VERSION,
    )


def _layout(rows: StoredRows) -> Sequence[object]:
    return rows.dtype, rows.shape, rows.strides


def _place(rows: StoredRows) -> Sequence[object]:
    return rows.file_sha256, rows.offset, rows.size_bytes


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
