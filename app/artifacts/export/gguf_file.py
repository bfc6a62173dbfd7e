"""GGUF: every tensor dense, under the name and in the dtype that it has in the model.

GGUF has no tables of one's own, so palettes cannot stay. Names and metadata are not those of
llama.cpp's models, which its own converter makes of a dense model's folder.

Source: the package gguf 0.19, which llama.cpp publishes.
"""

import tempfile
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

from palettery.app.artifacts.export.dense import dense_entries
from palettery.app.artifacts.export.request import ExportRequest
from palettery.app.artifacts.writer import TensorEntry
from palettery.app.errors import InvalidArtifact, UnsupportedFormat
from palettery.app.storage.base import CHUNK_BYTES

ARCHITECTURE = "palettery"
"""Value of `general.architecture`, which every file has."""
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8")
MAX_AXES, MAX_NAME_BYTES = 4, 63
"""Limits of the format."""


def write_gguf(request: ExportRequest) -> str:
    """Write every tensor, decoded; memory is bounded by one tensor.

    Raises:
        UnsupportedFormat: GGUF cannot hold a tensor.
    """
    entries = list(dense_entries(request.artifact))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.gguf")
        writer = GGUFWriter(path, ARCHITECTURE)
        for entry in entries:
            _check_fits(entry)
            type_ = GGMLQuantizationType[entry.dtype]
            size = entry.size_bytes
            writer.add_tensor_info(entry.name, entry.shape, np.dtype("f4"), size, type_)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in entries:
            request.artifact.check()
            writer.write_tensor_data(np.frombuffer(_content(entry), np.uint8))
        writer.close()
        with path.open("rb") as file:
            return request.write(iter(lambda: file.read(CHUNK_BYTES), b""))


def check_gguf(request: ExportRequest) -> None:
    """Compare a written file, as the package reads it, with the artifact.

    Raises:
        InvalidArtifact: names the tensor that differs.
    """
    with tempfile.NamedTemporaryFile() as file:
        size_bytes = request.store.size_bytes(request.path)
        for chunk in request.store.chunks(request.path, 0, size_bytes):
            file.write(chunk)
        file.flush()
        tensors = {tensor.name: tensor for tensor in GGUFReader(file.name).tensors}
        for entry in dense_entries(request.artifact):
            tensor = tensors.pop(entry.name, None)
            if (
                tensor is None
                or tensor.tensor_type.name != entry.dtype
                or tuple(tensor.shape.tolist()) != entry.shape[::-1]
                or tensor.data.tobytes() != _content(entry)
            ):
                raise InvalidArtifact(f"{entry.name}: the GGUF export as read back differs")
        if tensors:
            raise InvalidArtifact(f"{next(iter(tensors))}: the GGUF export has it, too")


def _check_fits(entry: TensorEntry) -> None:
    if entry.dtype not in DTYPES or len(entry.shape) > MAX_AXES:
        raise UnsupportedFormat(
            f"{entry.name} is {entry.dtype} of shape {list(entry.shape)}; GGUF holds tensors of "
            f"{', '.join(DTYPES)} with at most {MAX_AXES} axes: leave this format out"
        )
    if (size := len(entry.name.encode())) > MAX_NAME_BYTES:
        raise UnsupportedFormat(
            f"the name {entry.name} has {size} bytes, and GGUF allows {MAX_NAME_BYTES}: leave this "
            "format out"
        )


def _content(entry: TensorEntry) -> bytes:
    return b"".join(bytes(chunk) for chunk in entry.chunks())
