"""Lay parts and untouched tensors out as the files of an artifact."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from xxhash import xxh3_64

from palettery.app.artifacts.writer import Chunks, Entry, arranged, header
from palettery.app.checkpoints.dense import dense_bytes, dense_chunks
from palettery.app.compression.parts import Parts
from palettery.app.compression.report import ArtifactTensor
from palettery.app.errors import InvalidArtifact
from palettery.app.storage.base import Reads, Storage
from palettery.schemas.checkpoint import Checkpoint, StoredTensor
from palettery.schemas.plan import Plan, PlannedTensor
from palettery.schemas.tasks import StoredSlice

SHARD_BYTES = 5_000_000_000
"""Above this, the artifact becomes several files with an index."""
BATCH_BYTES = 128 << 20
"""Dense bytes that are verified in one task, or one tensor that has more."""
INDEX = "model.safetensors.index.json"


class Stores(NamedTuple):
    """Where things lie."""

    source: Reads
    """The uploaded model."""
    store: Storage
    """Parts, and the artifact."""


Shards = Mapping[str, Sequence[ArtifactTensor]]
"""File name -> what it holds; the arrays of one tensor stay together."""


def lay_out(plan: Plan, checkpoint: Checkpoint, parts: Parts, stores: Stores) -> Shards:
    """The files of an artifact. The same plan and parts give the same files."""
    stored = {tensor.name: tensor for tensor in checkpoint.tensors}
    pieces = [
        _piece(planned, parts.get(planned.name, ()), stored[planned.name], checkpoint, stores)
        for planned in plan.tensors
    ]
    filled: list[list[ArtifactTensor]] = [[]]
    room = SHARD_BYTES
    for piece in pieces:
        if piece.size_bytes > room and filled[-1]:
            filled.append([])
            room = SHARD_BYTES
        filled[-1].append(piece)
        room -= piece.size_bytes
    if len(filled) == 1:
        return {"model.safetensors": filled[0]}
    return {
        f"model-{number:05d}-of-{len(filled):05d}.safetensors": shard
        for number, shard in enumerate(filled, start=1)
    }


def index(shards: Shards) -> bytes:
    """The index of an artifact of several files."""
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


def batches(plan: Plan) -> list[tuple[str, ...]]:
    """The plan's tensors in batches to verify, by their dense bytes."""
    filled: list[list[str]] = []
    room = 0
    for planned in plan.tensors:
        if not filled or planned.size_bytes > room:
            filled.append([])
            room = BATCH_BYTES
        filled[-1].append(planned.name)
        room -= planned.size_bytes
    return [tuple(names) for names in filled]


def in_artifact(
    path: str, shard: Sequence[ArtifactTensor], metadata: Mapping[str, str]
) -> dict[tuple[str, int], StoredSlice]:
    """Where every palettized slice of a file lies in it, by tensor name and first row."""
    entries = arranged(entry for piece in shard for entry in piece.entries)
    place = len(header(entries, metadata))
    starts: dict[str, int] = {}
    for entry in entries:
        starts[entry.name] = place
        place += entry.size_bytes
    found = {}
    for piece in shard:
        if not piece.palettized:
            continue
        for part in piece.slices:
            tensors = {}
            for key, tensor in part.tensors.items():
                name = f"{piece.planned.name}.{key}"
                tensors[key] = tensor.model_copy(update={"file": 0, "offset": starts[name]})
                starts[name] += tensor.size_bytes
            moved = part.model_copy(update={"path": path, "tensors": tensors})
            found[piece.planned.name, part.outcome.first_row] = moved
    return found


def _piece(
    planned: PlannedTensor,
    slices: tuple[StoredSlice, ...],
    stored: StoredTensor,
    checkpoint: Checkpoint,
    stores: Stores,
) -> ArtifactTensor:
    piece = ArtifactTensor(planned, slices, ())
    if piece.palettized:
        keys = slices[0].tensors
        return ArtifactTensor(
            planned, slices, tuple(_joined(planned.name, key, slices, stores.store) for key in keys)
        )
    path = checkpoint.files[stored.file].path

    def untouched() -> Chunks:
        return dense_chunks(stores.source, path, stored)

    entry = Entry(stored.name, stored.dtype, stored.shape, dense_bytes(stored), untouched)
    return ArtifactTensor(planned, slices, (entry,))


def _joined(name: str, key: str, slices: tuple[StoredSlice, ...], store: Storage) -> Entry:
    """One array of a palette, its row slices end to end."""
    tensors = [part.tensors[key] for part in slices]
    rows = sum(tensor.shape[0] for tensor in tensors)

    def chunks() -> Chunks:
        for part in slices:
            yield from _sound(store, part, key)

    shape = (rows, *tensors[0].shape[1:])
    size_bytes = sum(tensor.size_bytes for tensor in tensors)
    return Entry(f"{name}.{key}", tensors[0].dtype, shape, size_bytes, chunks)


def _sound(store: Storage, part: StoredSlice, key: str) -> Chunks:
    """An array of a part; one that is not what was written is removed, so that a retry makes it."""
    digest, tensor = xxh3_64(), part.tensors[key]
    for chunk in store.chunks(part.path, tensor.offset, tensor.size_bytes):
        digest.update(chunk)
        yield chunk
    if part.outcome.array_digests.get(key, digest.hexdigest()) != digest.hexdigest():
        store.delete(part.path)
        raise InvalidArtifact(
            f"{part.outcome.name}: its finished part was damaged in the store, and is removed; "
            "retry the job, which computes it anew"
        )
