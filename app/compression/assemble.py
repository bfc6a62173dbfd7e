"""Write the files of an artifact and its report."""

import hashlib
from collections.abc import Mapping, Sequence

from palettery.app.artifacts.reader import open_artifact
from palettery.app.artifacts.writer import arranged, stream, write_hashed
from palettery.app.compression.cancellation import StopCheck
from palettery.app.compression.layout import INDEX, SHARD_BYTES, Shards, Stores, index, lay_out
from palettery.app.compression.parts import read_parts
from palettery.app.compression.report import ArtifactTensor, account
from palettery.app.compression.statistics import collected
from palettery.app.compression.verify import verify
from palettery.app.planning.exports import palettized_weight
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.version import SOFTWARE
from palettery.schemas.artifact import METADATA_KEY, ArtifactMetadata
from palettery.schemas.base import Schema
from palettery.schemas.checkpoint import Checkpoint
from palettery.schemas.config import KMeansPalettizerConfig
from palettery.schemas.plan import Plan
from palettery.schemas.report import Report
from palettery.schemas.tasks import CompressionTask, JobRequest

REPORT, EXPORTS = "report.json", "exports"
"""Names in a job's folder."""


def assemble(
    plan: Plan,
    checkpoint: Checkpoint,
    tasks: Sequence[CompressionTask],
    *,
    source: Storage,
    store: Storage,
    prefix: str,
    config: KMeansPalettizerConfig,
    shard_bytes: int = SHARD_BYTES,
) -> Report:
    """Write a job's artifact, statistics and report below `prefix` from finished parts, all in one.

    The artifact is read back and compared with the source before the report is written, so a
    report stands for a sound artifact.

    Raises:
        InvalidArtifact: the artifact as read back is not what the kernels promised.
    """
    parts = collected(store, read_parts(store, tasks), statistics_path(prefix))
    shards = lay_out(plan, checkpoint, parts, Stores(source, store), shard_bytes)
    check = StopCheck(store, None)
    request = JobRequest(config=config, checkpoint=checkpoint, plan=plan)
    digests = {
        name: write_shard(store, artifact_path(prefix, name), shard, said(request, shard), check)
        for name, shard in shards.items()
    }
    digests |= write_index(store, prefix, shards)
    report = account(plan, [piece for shard in shards.values() for piece in shard], digests)
    paths = [artifact_path(prefix, name) for name in shards]
    verify(open_artifact(store, paths, Limits()), report.tensors, checkpoint, source, check)
    write_report(store, prefix, report)
    return report


def write_shard(
    store: Storage,
    path: str,
    shard: Sequence[ArtifactTensor],
    metadata: Mapping[str, str],
    check: StopCheck,
    folder: str | None = None,
) -> str:
    """Write one file of an artifact, the digests of its blocks into a folder; its hex digest.

    Raises:
        Cancelled: see `StopCheck`; nothing was written.
    """
    entries = arranged(entry for piece in shard for entry in piece.entries)
    return write_hashed(store, path, stream(entries, metadata), check, folder)


def write_index(store: Storage, prefix: str, shards: Shards) -> dict[str, str]:
    """Write the index of an artifact of several files; its name and hex digest."""
    if len(shards) == 1:
        return {}
    text = index(shards)
    store.write(artifact_path(prefix, INDEX), text)
    return {INDEX: hashlib.sha256(text).hexdigest()}


def write_report(store: Storage, prefix: str, report: Report) -> None:
    """Write the report; from now on the artifact is there."""
    store.write(report_path(prefix), report.model_dump_json().encode())


def artifact_path(prefix: str, name: str) -> str:
    """Where a file of a job's artifact lies."""
    return f"{prefix}/artifact/{name}"


def export_path(prefix: str, to: str) -> str:
    """Where another form of a job's artifact lies."""
    return f"{prefix}/{EXPORTS}/{to}"


def statistics_path(prefix: str) -> str:
    """Where the statistics of a job's tensors lie, line by line."""
    return f"{prefix}/statistics.jsonl"


def report_path(prefix: str) -> str:
    """Where a job's report lies."""
    return f"{prefix}/{REPORT}"


def said(request: JobRequest, shard: Sequence[ArtifactTensor]) -> dict[str, str]:
    """The metadata of one file of an artifact."""
    metadata = ArtifactMetadata(
        weights={
            piece.planned.name: palettized_weight(piece.planned)
            for piece in shard
            if piece.palettized
        },
        tied={
            piece.planned.name: piece.planned.aliases for piece in shard if piece.planned.aliases
        },
        source_sha256={file.name: file.sha256 for file in request.checkpoint.files if file.sha256},
        config_sha256=sha256_of(request.config),
        # Which other forms there are beside it does not change an artifact.
        plan_sha256=sha256_of(request.plan.model_copy(update={"exports": ()})),
        sensitivities_sha256=request.plan.sensitivities_sha256,
        software=SOFTWARE,
    )
    return {"format": "pt", METADATA_KEY: metadata.model_dump_json()}


def sha256_of(schema: Schema) -> str:
    """Hex digest of a document's canonical JSON."""
    return hashlib.sha256(schema.model_dump_json().encode()).hexdigest()
