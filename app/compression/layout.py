"""Layout of an artifact: which tensors each of its files contains, and where."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from xxhash import xxh3_64

from palettery.app.artifacts.writer import Chunks, TensorEntry, header, sort_entries
from palettery.app.checkpoints.dense import dense_chunks, dense_size_bytes
from palettery.app.compression.parts import Parts
from palettery.app.compression.report import ArtifactTensor
from palettery.app.errors import InvalidArtifact
from palettery.app.storage.base import ObjectReader, Storage
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

    source: ObjectReader
    """The uploaded model."""
    store: Storage
    """Store of the parts and of the artifact."""


Shards = Mapping[str, Sequence[ArtifactTensor]]
"""File name -> its tensors; the arrays of one tensor stay together."""


def lay_out(plan: Plan, checkpoint: Checkpoint, parts: Parts, stores: Stores) -> Shards:
    """Return the files of an artifact; the same plan and parts give the same files."""
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    pieces = [
        _lay_out_tensor(
            planned, parts.get(planned.name, ()), tensors[planned.name], checkpoint, stores
        )
        for planned in plan.tensors
    ]
    return fill_files(pieces)


def fill_files(pieces: Sequence[ArtifactTensor]) -> Shards:
    """Return tensors in files of at most `SHARD_BYTES`, or of one tensor."""
    filled: list[list[ArtifactTensor]] = [[]]
    remaining_bytes = SHARD_BYTES
    for piece in pieces:
        if piece.size_bytes > remaining_bytes and filled[-1]:
            filled.append([])
            remaining_bytes = SHARD_BYTES
        filled[-1].append(piece)
        remaining_bytes -= piece.size_bytes
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
    remaining_bytes = 0
    for planned in plan.tensors:
        if not filled or planned.size_bytes > remaining_bytes:
            filled.append([])
            remaining_bytes = BATCH_BYTES
        filled[-1].append(planned.name)
        remaining_bytes -= planned.size_bytes
    return [tuple(names) for names in filled]


def locate_slices(
    path: str, shard: Sequence[ArtifactTensor], metadata: Mapping[str, str]
) -> dict[tuple[str, int], StoredSlice]:
    """Return the location of every palettized slice of a file, by tensor name and first row."""
    entries = sort_entries(entry for piece in shard for entry in piece.entries)
    offset = len(header(entries, metadata))
    offsets: dict[str, int] = {}
    for entry in entries:
        offsets[entry.name] = offset
        offset += entry.size_bytes
    locations = {}
    for piece in shard:
        if not piece.is_palettized:
            continue
        if len(piece.slices) > 1 and piece.num_stored is not None:
            continue  # their indices do not begin on whole bytes
        for part in piece.slices:
            tensors = {}
            for key, tensor in part.tensors.items():
                name = f"{piece.planned.name}.{key}"
                tensors[key] = tensor.model_copy(update={"file": 0, "offset": offsets[name]})
                offsets[name] += tensor.size_bytes
            in_artifact = part.model_copy(update={"path": path, "tensors": tensors})
            locations[piece.planned.name, part.outcome.first_row] = in_artifact
    return locations


def _lay_out_tensor(
    planned: PlannedTensor,
    slices: tuple[StoredSlice, ...],
    tensor: StoredTensor,
    checkpoint: Checkpoint,
    stores: Stores,
) -> ArtifactTensor:
    piece = ArtifactTensor(planned, slices, ())
    if piece.is_palettized:
        keys = slices[0].tensors
        entries = tuple(_join(planned.name, key, slices, stores.store) for key in keys)
        if piece.num_stored is not None and len(slices) > 1:
            joined = _join_indices(planned, slices, stores.store)
            entries = tuple(joined if entry_.name == joined.name else entry_ for entry_ in entries)
        return ArtifactTensor(planned, slices, entries)
    path = checkpoint.files[tensor.file].path

    def original_chunks() -> Chunks:
        return dense_chunks(stores.source, path, tensor)

    entry = TensorEntry(
        tensor.name, tensor.dtype, tensor.shape, dense_size_bytes(tensor), original_chunks
    )
    return ArtifactTensor(planned, slices, (entry,))


def _join(name: str, key: str, slices: tuple[StoredSlice, ...], store: Storage) -> TensorEntry:
    """Return one array of a tensor, concatenated from its slices of rows."""
    tensors = [part.tensors[key] for part in slices]
    rows = sum(tensor.shape[0] for tensor in tensors)

    def chunks() -> Chunks:
        for part in slices:
            yield from _verified_chunks(store, part, key)

    shape = (rows, *tensors[0].shape[1:])
    size_bytes = sum(tensor.size_bytes for tensor in tensors)
    return TensorEntry(f"{name}.{key}", tensors[0].dtype, shape, size_bytes, chunks)


def _join_indices(
    planned: PlannedTensor, slices: tuple[StoredSlice, ...], store: Storage
) -> TensorEntry:
    """Return the indices of a sparse tensor: those of its slices, joined without padding bits."""
    assert planned.spec is not None  # noqa: S101 - a palettized tensor has one
    vectors = [(part.outcome.stored or 0) // planned.spec.cluster_dim for part in slices]
    bits = [planned.spec.n_bits * number for number in vectors]

    def chunks() -> Chunks:
        streams = (b"".join(_verified_chunks(store, part, "indices")) for part in slices)
        return join_bits(zip(streams, bits, strict=True))

    size = (sum(bits) + 7) // 8
    return TensorEntry(f"{planned.name}.indices", "U8", (size,), size, chunks)


def join_bits(streams: Iterable[tuple[bytes, int]]) -> Iterator[bytes]:
    """Yield the concatenation of bit streams, each with its length in bits; LSB first."""
    carry = carry_bits = 0
    for stream, bits in streams:
        shifted = np.frombuffer(stream, np.uint8).astype(np.uint16) << carry_bits
        joined = np.zeros(shifted.size + 1, np.uint8)
        joined[:-1] = shifted & 255
        joined[1:] |= (shifted >> 8).astype(np.uint8)
        joined[0] |= carry
        num_bytes, carry_bits = divmod(carry_bits + bits, 8)
        yield joined[:num_bytes].tobytes()
        carry = int(joined[num_bytes]) if carry_bits else 0
    if carry_bits:
        yield bytes([carry])


def _verified_chunks(store: Storage, part: StoredSlice, key: str) -> Chunks:
    """Yield an array of a part, then check its digest.

    Raises:
        InvalidArtifact: the part is damaged; it is deleted, so that a retry computes it again.
    """
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
