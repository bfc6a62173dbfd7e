"""Dense safetensors: LUT[indices] in the original dtype, for any framework."""

from collections.abc import Iterator

import numpy as np

from palettery.app.artifacts.export.request import Export
from palettery.app.artifacts.reader import Artifact
from palettery.app.artifacts.writer import Chunks, Entry, arranged, stream
from palettery.app.checkpoints.safetensors import read_header
from palettery.app.errors import InvalidArtifact
from palettery.app.settings import Limits


def write_dense(wanted: Export) -> str:
    """Write every tensor, decoded; memory is bounded by a block of rows.

    A name that shares another one's tensor stands in the metadata with that name, as
    `safetensors.torch.save_model` has it.
    """
    artifact = wanted.artifact
    entries = arranged([*_decoded(artifact), *_kept(artifact)])
    return wanted.put(stream(entries, {"format": "pt"} | artifact.tied()))


def check_dense(wanted: Export) -> None:
    """Compare a written file with the artifact.

    Raises:
        InvalidArtifact: names the tensor that is another.
    """
    artifact, store, path = wanted.artifact, wanted.store, wanted.path
    found = {tensor.name: tensor for tensor in read_header(store, path, Limits()).tensors}
    entries = [*_decoded(artifact), *_kept(artifact)]
    if found.keys() != {entry.name for entry in entries}:
        raise InvalidArtifact("the dense export as read back holds other tensors than the artifact")
    for entry in entries:
        tensor = found[entry.name]
        place, is_same = tensor.offset, (tensor.dtype, tensor.shape) == (entry.dtype, entry.shape)
        for piece in entry.chunks():
            size_bytes = memoryview(piece).nbytes
            is_same = is_same and store.read(path, place, size_bytes) == piece
            place += size_bytes
        if not is_same:
            raise InvalidArtifact(f"{entry.name}: the dense export as read back is another")


def _decoded(artifact: Artifact) -> Iterator[Entry]:
    for name, weight in artifact.weights.items():

        def chunks(name: str = name) -> Chunks:
            for _, block in artifact.blocks(name):
                yield np.ascontiguousarray(block).reshape(-1).view(np.uint8).data

        yield Entry(name, weight.dtype, weight.shape, artifact.dense_bytes(name), chunks)


def _kept(artifact: Artifact) -> Iterator[Entry]:
    for name, stored in artifact.kept.items():
        tensor, path = stored.tensor, stored.path

        def chunks(
            path: str = path, start: int = tensor.offset, size_bytes: int = tensor.size_bytes
        ) -> Chunks:
            return artifact.storage.chunks(path, start, size_bytes)

        yield Entry(name, tensor.dtype, tensor.shape, tensor.size_bytes, chunks)
