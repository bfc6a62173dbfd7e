"""Files of an artifact: safetensors shards, and their index if there are several."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from palettery.app.artifacts.writer import sort_entries, stream, write_hashed
from palettery.app.compression.cancellation import CancellationCheck
from palettery.app.compression.job_folder import artifact_path
from palettery.app.compression.layout import INDEX, Shards, build_index
from palettery.app.compression.report import ArtifactTensor
from palettery.app.planning.exports import palettized_weight
from palettery.app.storage.base import Storage
from palettery.app.version import SOFTWARE
from palettery.schemas.artifact import METADATA_KEY, ArtifactMetadata, PalettizedWeight
from palettery.schemas.base import Schema
from palettery.schemas.checkpoint import Checkpoint
from palettery.schemas.plan import PlannedTensor
from palettery.schemas.tasks import JobRequest


def write_shard(
    store: Storage,
    prefix: str,
    name: str,
    shard: Sequence[ArtifactTensor],
    metadata: Mapping[str, str],
    check_cancelled: CancellationCheck,
) -> str:
    """Write one file of a job's artifact, and the digests of its blocks; return its SHA-256.

    Raises:
        Cancelled: see `CancellationCheck`; nothing was written.
    """
    entries = sort_entries(entry for piece in shard for entry in piece.entries)
    return write_hashed(
        store, artifact_path(prefix, name), stream(entries, metadata), check_cancelled, prefix
    )


def write_index(store: Storage, prefix: str, shards: Shards) -> dict[str, str]:
    """Write the index of an artifact of several files; return its name and SHA-256."""
    if len(shards) == 1:
        return {}
    text = build_index(shards)
    store.write(artifact_path(prefix, INDEX), text)
    return {INDEX: hashlib.sha256(text).hexdigest()}


def build_metadata(request: JobRequest, shard: Sequence[ArtifactTensor]) -> dict[str, str]:
    """Return the metadata of one file of an artifact."""
    return tensors_metadata(
        request,
        [
            (piece.planned, palettized_weight(piece.planned, piece.num_stored))
            if piece.is_palettized
            else (piece.planned, None)
            for piece in shard
        ],
    )


def tensors_metadata(
    request: JobRequest, tensors: Sequence[tuple[PlannedTensor, PalettizedWeight | None]]
) -> dict[str, str]:
    """Return the metadata of a file with these tensors, each with its palette or None if kept."""
    metadata = ArtifactMetadata(
        weights={planned.name: weight for planned, weight in tensors if weight is not None},
        tied={planned.name: planned.aliases for planned, _ in tensors if planned.aliases},
        source_sha256=dict(sorted(_digests(request.checkpoint))),
        config_sha256=_sha256(request.config),
        # An artifact does not depend on the exports made of it.
        plan_sha256=_sha256(request.plan.model_copy(update={"exports": ()})),
        sensitivities_sha256=request.plan.sensitivities_sha256,
        software=SOFTWARE,
    )
    return {"format": "pt", METADATA_KEY: metadata.model_dump_json()}


def _digests(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    return ((file.name, file.sha256) for file in checkpoint.files if file.sha256)


def _sha256(schema: Schema) -> str:
    """Return the hex digest of a document's canonical JSON."""
    return hashlib.sha256(schema.model_dump_json().encode()).hexdigest()
