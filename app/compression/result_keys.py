"""Cache keys of results: slices of equal keys have equal palettes, bit for bit.

A recipe identifies everything but the bytes that a result depends on. With the location of the
bytes in an uploaded file it gives the origin key, known before any read; with the digest of the
bytes it gives the content key, which is the same for equal tensors of any file.
"""

import hashlib
import json
from collections.abc import Sequence

from palettery import kernels
from palettery.app.planning.job_plan import JobPlan
from palettery.app.version import VERSION
from palettery.schemas.tasks import StoredRows, TensorSlice


def recipe(item: TensorSlice) -> str:
    """Return the digest of spec, shape and layout of the bytes, and version of the kernels."""
    sensitivity, moment = item.sensitivity, item.second_moment
    return _digest(
        item.spec.model_dump(mode="json"),
        item.clustering.model_dump(mode="json"),
        _layout(item),
        sensitivity and _layout(sensitivity),
        moment and _layout(moment),
        item.whole and _location(item.whole),
        kernels.fingerprint(),
    )


def origin_key(recipe: str, item: TensorSlice) -> str | None:
    """Return the digest of a recipe and the location of the bytes; None if a file has no digest."""
    locations = [_location(rows) for rows in item.inputs()]
    if any(location[0] is None for location in locations):
        return None
    return _digest(recipe, locations)


def content_key(recipe: str, content_sha256: str) -> str:
    """Return the digest of a recipe and of the bytes."""
    return _digest(recipe, content_sha256)


def request_sha256(job_plan: JobPlan) -> str:
    """Return the digest of everything that an artifact depends on."""
    return _digest(
        [(file.name, file.sha256) for file in job_plan.files()],
        job_plan.config.model_dump(mode="json"),
        job_plan.plan.model_dump(mode="json"),
        kernels.fingerprint(),
        VERSION,
    )


def _layout(rows: StoredRows) -> Sequence[object]:
    return rows.dtype, rows.shape, rows.strides


def _location(rows: StoredRows) -> Sequence[object]:
    return rows.file_sha256, rows.offset, rows.size_bytes


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
