"""Layout of an artifact: which tensors each of its files contains, and where."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from xxhash import xxh3_64

from palettery.app.artifacts.writer import Chunks, TensorEntry, header, sort_entries
from palettery.app.checkpoints.dense import dense_chunks, dense_size_bytes
from palettery.app.compression.parts import Parts
from palettery.app.compression.report import ArtifactTensor
from palettery.app.errors import InvalidArtifact
from palettery.app.storage.base import Reads, Storage
from palettery.schemas.checkpoint import Checkpoint, StoredTensor
from palettery.schemas.plan import Plan, PlannedTensor
from palettery.schemas.tasks import StoredSlice

SHARD_BYTES = 5_000_000_000
"""Size above which an artifact becomes several files with an index."""
BATCH_BYTES = 128 << 20
"""Dense bytes that one task verifies, unless a single tensor has more."""
INDEX = "model.safetensors.index.json"


class Stores(NamedTuple):
    """Stores of the inputs of an artifact."""

    source: Reads
    """The uploaded model."""
    store: Storage
    """Store of the parts and of the artifact."""


Shards = Mapping[str, Sequence[ArtifactTensor]]
"""File name -> its tensors; the arrays of one tensor stay together."""


def lay_out(plan: Plan, checkpoint: Checkpoint, parts: Parts, stores: Stores) -> Shards:
    """Return the files of an artifact; the same plan and parts give the same files."""
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


def build_index(shards: Shards) -> bytes:
    """Return the index of an artifact of several files."""
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


def verification_batches(plan: Plan) -> list[tuple[str, ...]]:
    """Return the plan's tensors in batches of about equal dense bytes."""
    filled: list[list[str]] = []
    room = 0
    for planned in plan.tensors:
        if not filled or planned.size_bytes > room:
            filled.append([])
            room = BATCH_BYTES
        filled[-1].append(planned.name)
        room -= planned.size_bytes
    return [tuple(names) for names in filled]


def locate_slices(
    path: str, shard: Sequence[ArtifactTensor], metadata: Mapping[str, str]
) -> dict[tuple[str, int], StoredSlice]:
    """Return the location of every palettized slice of a file, by tensor name and first row."""
    entries = sort_entries(entry for piece in shard for entry in piece.entries)
    place = len(header(entries, metadata))
    starts: dict[str, int] = {}
    for entry in entries:
        starts[entry.name] = place
        place += entry.size_bytes
    located = {}
    for piece in shard:
        if not piece.palettized:
            continue
        for part in piece.slices:
            tensors = {}
            for key, tensor in part.tensors.items():
                name = f"{piece.planned.name}.{key}"
                tensors[key] = tensor.model_copy(update={"file": 0, "offset": starts[name]})
                starts[name] += tensor.size_bytes
            in_artifact = part.model_copy(update={"path": path, "tensors": tensors})
            located[piece.planned.name, part.outcome.first_row] = in_artifact
    return located


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
            planned, slices, tuple(_join(planned.name, key, slices, stores.store) for key in keys)
        )
    path = checkpoint.files[stored.file].path

    def untouched() -> Chunks:
        return dense_chunks(stores.source, path, stored)

    entry = TensorEntry(
        stored.name, stored.dtype, stored.shape, dense_size_bytes(stored), untouched
    )
    return ArtifactTensor(planned, slices, (entry,))


def _join(name: str, key: str, slices: tuple[StoredSlice, ...], store: Storage) -> TensorEntry:
    """Return one array of a palette, with its row slices concatenated."""
    tensors = [part.tensors[key] for part in slices]
    rows = sum(tensor.shape[0] for tensor in tensors)

    def chunks() -> Chunks:
        for part in slices:
            yield from _checked_chunks(store, part, key)

    shape = (rows, *tensors[0].shape[1:])
    size_bytes = sum(tensor.size_bytes for tensor in tensors)
    return TensorEntry(f"{name}.{key}", tensors[0].dtype, shape, size_bytes, chunks)


def _checked_chunks(store: Storage, part: StoredSlice, key: str) -> Chunks:
    """Yield an array of a part; delete the part if it is damaged, so that a retry computes it."""
    digest, tensor = xxh3_64(), part.tensors[key]
    for chunk in store.chunks(part.path, tensor.offset, tensor.size_bytes):
        digest.update(chunk)
        yield chunk
    if part.outcome.array_digests.get(key, digest.hexdigest()) != digest.hexdigest():
        store.delete(part.path)
        raise InvalidArtifact(
            f"{part.outcome.name}: its finished part was damaged in the store and was deleted; "
            "retry the job, which computes it anew"
        )
