"""Join the parts and the untouched tensors into the artifact and its report."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version

from app.artifacts.reader import open_artifact
from app.artifacts.writer import Chunks, Entry, arranged, stream
from app.compression.account import Piece, account
from app.compression.dense import dense_bytes, dense_chunks
from app.compression.parts import PartSlice, read_parts
from app.compression.verify import verify
from app.settings import Limits
from app.storage import Storage
from schemas.artifact import ArtifactMetadata, PalettizedWeight
from schemas.base import Schema
from schemas.checkpoint import Checkpoint, StoredTensor
from schemas.config import KMeansPalettizerConfig
from schemas.plan import Plan, PlannedTensor
from schemas.report import Report
from schemas.tasks import CompressionTask

SHARD_BYTES = 5_000_000_000
"""Above this, the artifact becomes several files with an index."""


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
    """Write `<prefix>/artifact/*` and `<prefix>/report.json` from finished parts.

    The artifact is read back and compared with the source before the report is written, so a
    report stands for a sound artifact.

    Raises:
        InvalidArtifact: the artifact as read back is not what the kernels promised.
    """
    parts = read_parts(store, tasks)
    stored = {tensor.name: tensor for tensor in checkpoint.tensors}
    pieces = [
        _piece(
            planned, parts.get(planned.name, ()), stored[planned.name], checkpoint, source, store
        )
        for planned in plan.tensors
    ]
    shards = _shards(pieces, shard_bytes)
    folder = f"{prefix}/artifact"
    digests: dict[str, str] = {}
    for name, shard in shards.items():
        metadata = _metadata(shard, plan, checkpoint, config)
        entries = arranged(entry for piece in shard for entry in piece.entries)
        digest = hashlib.sha256()
        store.write(f"{folder}/{name}", _hashed(stream(entries, metadata), digest))
        digests[name] = digest.hexdigest()
    if len(shards) > 1:
        index = _index(shards)
        store.write(f"{folder}/model.safetensors.index.json", index)
        digests["model.safetensors.index.json"] = hashlib.sha256(index).hexdigest()
    report = account(plan, pieces, digests)
    artifact = open_artifact(store, [f"{folder}/{name}" for name in shards], Limits())
    verify(artifact, report, checkpoint, source)
    store.write(f"{prefix}/report.json", report.model_dump_json().encode())
    return report


def _piece(
    planned: PlannedTensor,
    slices: tuple[PartSlice, ...],
    stored: StoredTensor,
    checkpoint: Checkpoint,
    source: Storage,
    store: Storage,
) -> Piece:
    piece = Piece(planned, slices, ())
    if piece.palettized:
        keys = slices[0].tensors
        return Piece(
            planned, slices, tuple(_joined(planned.name, key, slices, store) for key in keys)
        )
    path = checkpoint.files[stored.file].path

    def untouched() -> Chunks:
        return dense_chunks(source, path, stored)

    entry = Entry(stored.name, stored.dtype, stored.shape, dense_bytes(stored), untouched)
    return Piece(planned, slices, (entry,))


def _joined(name: str, key: str, slices: tuple[PartSlice, ...], store: Storage) -> Entry:
    """One array of a palette, its row slices end to end."""
    tensors = [part.tensors[key] for part in slices]
    rows = sum(tensor.shape[0] for tensor in tensors)

    def chunks() -> Chunks:
        for part, tensor in zip(slices, tensors, strict=True):
            yield from store.chunks(part.path, tensor.offset, tensor.size_bytes)

    shape = (rows, *tensors[0].shape[1:])
    size_bytes = sum(tensor.size_bytes for tensor in tensors)
    return Entry(f"{name}.{key}", tensors[0].dtype, shape, size_bytes, chunks)


def _shards(pieces: Sequence[Piece], shard_bytes: int) -> dict[str, list[Piece]]:
    """Pieces by file name; the arrays of one tensor stay together."""
    filled: list[list[Piece]] = [[]]
    room = shard_bytes
    for piece in pieces:
        if piece.size_bytes > room and filled[-1]:
            filled.append([])
            room = shard_bytes
        filled[-1].append(piece)
        room -= piece.size_bytes
    if len(filled) == 1:
        return {"model.safetensors": filled[0]}
    return {
        f"model-{number:05d}-of-{len(filled):05d}.safetensors": shard
        for number, shard in enumerate(filled, start=1)
    }


def _index(shards: Mapping[str, Sequence[Piece]]) -> bytes:
    weight_map = {
        entry.name: name
        for name, shard in shards.items()
        for piece in shard
        for entry in piece.entries
    }
    total = sum(piece.size_bytes for shard in shards.values() for piece in shard)
    return json.dumps(
        {"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1
    ).encode()


def _metadata(
    shard: Sequence[Piece],
    plan: Plan,
    checkpoint: Checkpoint,
    config: KMeansPalettizerConfig,
) -> dict[str, str]:
    said = ArtifactMetadata(
        weights={piece.planned.name: _weight(piece.planned) for piece in shard if piece.palettized},
        tied={
            piece.planned.name: piece.planned.aliases for piece in shard if piece.planned.aliases
        },
        source_sha256={file.name: file.sha256 for file in checkpoint.files if file.sha256},
        config_sha256=_sha256(config),
        plan_sha256=_sha256(plan),
        sensitivities_sha256=plan.sensitivities_sha256,
        software={"palettery": version("palettery")},
    )
    return {"format": "pt", "palettery": said.model_dump_json()}


def _weight(planned: PlannedTensor) -> PalettizedWeight:
    assert planned.spec is not None  # noqa: S101 - a palettized tensor has both
    assert planned.clustering is not None  # noqa: S101
    return PalettizedWeight(
        n_bits=planned.spec.n_bits,
        cluster_dim=planned.spec.cluster_dim,
        axis=planned.clustering.axis,
        group_size=planned.clustering.group_size,
        shape=planned.shape,
        dtype=planned.dtype,
    )


def _hashed(chunks: Chunks, digest: "hashlib._Hash") -> Iterator[bytes | memoryview]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _sha256(schema: Schema) -> str:
    return hashlib.sha256(schema.model_dump_json().encode()).hexdigest()
