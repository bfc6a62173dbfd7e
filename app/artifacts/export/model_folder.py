"""The folder of a transformers model as a zip archive: config.json and safetensors files."""

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from palettery.app.artifacts.export.request import ExportRequest
from palettery.app.artifacts.reader import Artifact
from palettery.app.artifacts.writer import Chunks
from palettery.app.errors import InvalidArtifact, UnsupportedFormat
from palettery.app.storage.base import CHUNK_BYTES

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
METHOD, FORMAT_VERSION = "palettery", 1
QUANTIZATION_CONFIG = {"quant_method": METHOD, "format_version": FORMAT_VERSION}
"""The `quantization_config` in config.json of a folder with a packed model."""
Member = tuple[str, Chunks]
"""Name and content of a file."""


def write_packed_folder(request: ExportRequest) -> str:
    """Write the artifact's own files, and config.json with its quantization_config."""
    return write_folder(request, _packed_members(request))


def check_packed_folder(request: ExportRequest) -> None:
    """Compare the archive's files with the artifact's.

    Raises:
        InvalidArtifact: a file is missing, or differs.
    """
    expected = {name: _digest(chunks) for name, chunks in _packed_members(request)}
    with open_folder(request) as archive:
        names = archive.namelist()
        found = {name: _digest(_read(archive, name)) for name in names}
    if found != expected or len(names) != len(expected):
        raise InvalidArtifact("the folder for transformers as read back is not the artifact")


def write_folder(request: ExportRequest, members: Iterator[Member]) -> str:
    """Write files as a zip archive, reproducibly and uncompressed; return its SHA-256."""
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, chunks in members:
                info = zipfile.ZipInfo(name)
                info.external_attr = 0o644 << 16
                with archive.open(info, "w", force_zip64=True) as member:
                    for chunk in chunks:
                        request.artifact.check()
                        member.write(chunk)
        file.seek(0)
        return request.write(iter(lambda: file.read(CHUNK_BYTES), b""))


def open_folder(request: ExportRequest) -> zipfile.ZipFile:
    """Open a written archive, in a copy that closing it deletes."""
    file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - ZipFile keeps it
    for chunk in request.store.chunks(request.path, 0, request.store.size_bytes(request.path)):
        file.write(chunk)
    return zipfile.ZipFile(file)


def config_with(request: ExportRequest, quantization_config: dict[str, Any]) -> bytes:
    """Return the model's config.json with a quantization_config.

    Raises:
        UnsupportedFormat: it has one already.
    """
    assert request.config is not None  # noqa: S101 - `check_source` has checked it
    config = json.loads(request.config)
    if "quantization_config" in config:
        raise UnsupportedFormat(
            "the model's config.json has a quantization_config, so it is of a quantized model; "
            "palettize the model as it was before, or leave this format out"
        )
    config |= {"quantization_config": quantization_config}
    return (json.dumps(config, indent=2) + "\n").encode()


def _packed_members(request: ExportRequest) -> Iterator[Member]:
    artifact = request.artifact
    yield CONFIG, iter([config_with(request, QUANTIZATION_CONFIG)])
    names = _file_names(artifact)
    for path, name in names.items():
        size_bytes = artifact.storage.size_bytes(path)
        yield name, artifact.storage.chunks(path, 0, size_bytes)
    if len(names) > 1:
        yield INDEX, iter([_index(artifact, names)])


def _file_names(artifact: Artifact) -> dict[str, str]:
    """Return the path of each file of an artifact -> the name by which transformers finds it."""
    groups = (artifact.kept_tensors, *artifact.palettes.values())
    paths = dict.fromkeys(stored.path for parts in groups for stored in parts.values())
    if len(paths) == 1:
        return dict.fromkeys(paths, SINGLE)
    return {path: PurePosixPath(path).name for path in paths}


def _index(artifact: Artifact, names: dict[str, str]) -> bytes:
    """Return the index of the shards."""
    stored = dict(artifact.kept_tensors) | {
        f"{name}.{key}": part
        for name, parts in artifact.palettes.items()
        for key, part in parts.items()
    }
    total = sum(each.tensor.size_bytes for each in stored.values())
    places = {name: names[each.path] for name, each in stored.items()}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": places}).encode()


def _read(archive: zipfile.ZipFile, name: str) -> Chunks:
    with archive.open(name) as member:
        yield from iter(lambda: member.read(CHUNK_BYTES), b"")


def _digest(chunks: Chunks) -> bytes:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()
