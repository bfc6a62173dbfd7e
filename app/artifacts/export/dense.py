"""Dense safetensors: LUT[indices] in the original dtype, for any framework."""

from collections.abc import Iterator

import numpy as np

from palettery.app.artifacts.export.request import ExportRequest
from palettery.app.artifacts.reader import Artifact
from palettery.app.artifacts.writer import Chunks, TensorEntry, sort_entries, stream
from palettery.app.checkpoints.safetensors import read_header
from palettery.app.errors import InvalidArtifact
from palettery.app.settings import Limits


def write_dense(request: ExportRequest) -> str:
    """Write every tensor, decoded; memory is bounded by a block of rows.

    Names of a shared tensor are in the metadata, each with the first name, as
    `safetensors.torch.save_model` writes them.
    """
    artifact = request.artifact
    entries = sort_entries([*dense_entries(artifact)])
    return request.write(stream(entries, {"format": "pt"} | artifact.tied_names()))


def check_dense(request: ExportRequest) -> None:
    """Compare a written file with the artifact.

    Raises:
        InvalidArtifact: names the tensor that differs.
    """
    artifact, store, path = request.artifact, request.store, request.path
    tensors = {tensor.name: tensor for tensor in read_header(store, path, Limits()).tensors}
    entries = [*dense_entries(artifact)]
    if tensors.keys() != {entry.name for entry in entries}:
        raise InvalidArtifact("the dense export as read back has other tensors than the artifact")
    for entry in entries:
        tensor = tensors[entry.name]
        offset, is_same = tensor.offset, (tensor.dtype, tensor.shape) == (entry.dtype, entry.shape)
        for piece in entry.chunks():
            size_bytes = memoryview(piece).nbytes
            is_same = is_same and store.read(path, offset, size_bytes) == piece
            offset += size_bytes
        if not is_same:
            raise InvalidArtifact(f"{entry.name}: the dense export as read back differs")


def dense_entries(artifact: Artifact) -> Iterator[TensorEntry]:
    """Yield every tensor of an artifact, decoded in blocks of rows."""
    yield from _decoded_entries(artifact)
    yield from _kept_entries(artifact)


def _decoded_entries(artifact: Artifact) -> Iterator[TensorEntry]:
    for name, weight in artifact.weights.items():

        def chunks(name: str = name) -> Chunks:
            for _, block in artifact.blocks(name):
                yield np.ascontiguousarray(block).reshape(-1).view(np.uint8).data

        yield TensorEntry(name, weight.dtype, weight.shape, artifact.dense_bytes(name), chunks)


def _kept_entries(artifact: Artifact) -> Iterator[TensorEntry]:
    for name, stored in artifact.kept_tensors.items():
        tensor, path = stored.tensor, stored.path

        def chunks(
            path: str = path, start: int = tensor.offset, size_bytes: int = tensor.size_bytes
        ) -> Chunks:
            return artifact.storage.chunks(path, start, size_bytes)

        yield TensorEntry(name, tensor.dtype, tensor.shape, tensor.size_bytes, chunks)
