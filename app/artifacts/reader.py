"""Reader of artifacts, which decodes weights in blocks of rows."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from palettery import kernels
from palettery.app.artifacts.dtypes import NUMPY
from palettery.app.checkpoints.safetensors import NAME_CHARACTERS as MODEL_NAME_CHARACTERS
from palettery.app.checkpoints.safetensors import read_header
from palettery.app.errors import InvalidArtifact
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.kernels import Palette
from palettery.kernels.lut import dense_lut
from palettery.kernels.threads import Check, no_check
from palettery.schemas.artifact import (
    METADATA_KEY,
    PALETTE_KEYS,
    ArtifactMetadata,
    PalettizedWeight,
)
from palettery.schemas.checkpoint import StoredTensor

BLOCK_BYTES = 16 << 20
"""Dense bytes decoded at a time."""
NAME_CHARACTERS = MODEL_NAME_CHARACTERS + 1 + max(map(len, PALETTE_KEYS))
"""Most characters of an array's name: a tensor's name, a dot and a key."""


@dataclass(frozen=True)
class LocatedTensor:
    """A tensor of an artifact, and the path of its file."""

    path: str
    tensor: StoredTensor


@dataclass(frozen=True)
class Artifact:
    """An open artifact, whose sizes and references have all been validated."""

    storage: Storage
    metadata: Sequence[ArtifactMetadata]
    """One per file."""
    weights: Mapping[str, PalettizedWeight]
    palettes: Mapping[str, Mapping[str, LocatedTensor]]
    """Name of a palettized weight -> its arrays `indices`, `lut` and so on."""
    kept_tensors: Mapping[str, LocatedTensor]
    """Untouched tensors by name."""
    check: Check = no_check
    """Function that is called regularly during decoding; it raises to cancel."""

    def array(self, stored: LocatedTensor) -> NDArray[np.generic]:
        """Return one stored tensor, of a dtype that numpy has."""
        return np.frombuffer(self.data(stored), NUMPY[stored.tensor.dtype]).reshape(
            stored.tensor.shape
        )

    def data(self, stored: LocatedTensor) -> memoryview:
        """Return the bytes of one stored tensor."""
        return self.storage.read(stored.path, stored.tensor.offset, stored.tensor.size_bytes)

    def blocks(
        self, name: str, threads: int | None = None
    ) -> Iterator[tuple[int, NDArray[np.generic]]]:
        """Yield a palettized weight, decoded, as (first row, rows) in order.

        Memory is bounded by the block, not by the weight.
        """
        weight, parts = self.weights[name], self.palettes[name]
        arrays = self._arrays_but_indices(name)
        indices = parts["indices"]
        for first, rows in _row_blocks(weight):
            self.check()
            cells = _cells(weight, rows)
            start = _cells(weight, first) * weight.n_bits // 8
            packed = self.storage.read(
                indices.path,
                indices.tensor.offset + start,
                (cells * weight.n_bits + 7) // 8,
            )
            block = _palette(weight, arrays, packed, first, rows)
            yield first, kernels.reconstruct(block, threads)

    def palette(self, name: str) -> Palette:
        """Return the palette of a weight; its indices are unpacked to one byte each."""
        weight, parts = self.weights[name], self.palettes[name]
        arrays = {key: self.array(stored) for key, stored in parts.items()}
        packed = arrays.pop("indices").data
        return _palette(weight, arrays, packed, 0, weight.shape[0])

    def lut(self, name: str) -> NDArray[np.generic]:
        """Return the LUTs of a weight in its dtype, without reading the indices."""
        arrays = self._arrays_but_indices(name)
        dtype = NUMPY[self.weights[name].dtype]
        lut: NDArray[np.generic] = dense_lut(
            arrays["lut"], dtype, arrays.get("lut_scale"), arrays.get("lut_zero_point")
        )
        return lut

    def _arrays_but_indices(self, name: str) -> dict[str, NDArray[Any]]:
        parts = self.palettes[name]
        return {key: self.array(stored) for key, stored in parts.items() if key != "indices"}

    def tied_names(self) -> dict[str, str]:
        """Return a map of every other name of a tensor to its first name."""
        return {
            alias: name
            for metadata in self.metadata
            for name, aliases in metadata.tied.items()
            for alias in aliases
        }

    def first_names(self) -> dict[str, str]:
        """Return a map of every name of a tensor to its first name."""
        return {name: name for name in (*self.weights, *self.kept_tensors)} | self.tied_names()

    def dense_bytes(self, name: str) -> int:
        """Return the size of a palettized weight after decoding."""
        weight = self.weights[name]
        return math.prod(weight.shape) * NUMPY[weight.dtype].itemsize

    def dense(self, name: str) -> NDArray[np.generic]:
        """Return a palettized weight, decoded as a whole."""
        weight = self.weights[name]
        whole = np.empty(weight.shape, NUMPY[weight.dtype])
        for first, block in self.blocks(name):
            whole[first : first + len(block)] = block
        return whole


def open_artifact(storage: Storage, paths: Sequence[str], limits: Limits) -> Artifact:
    """Open the files of one artifact.

    Raises:
        InvalidArtifact: a file is not an artifact of Palettery, or is inconsistent.
        InvalidModel: a file is not valid safetensors.
    """
    metadata: list[ArtifactMetadata] = []
    tensors: dict[str, LocatedTensor] = {}
    for path in paths:
        header = read_header(storage, path, limits, name_characters=NAME_CHARACTERS)
        metadata.append(_parse_metadata(path, header.metadata))
        tensors |= {tensor.name: LocatedTensor(path, tensor) for tensor in header.tensors}
    weights = {name: weight for each in metadata for name, weight in each.weights.items()}
    palettes = {name: _take_palette(tensors, name, weight) for name, weight in weights.items()}
    return Artifact(storage, metadata, weights, palettes, tensors)


def _parse_metadata(path: str, metadata: Mapping[str, str]) -> ArtifactMetadata:
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise InvalidArtifact(
            f"{path} is a safetensors file without a `palettery` entry in its metadata, "
            "so it is not a Palettery artifact; make one with `palettery compress`"
        )
    try:
        version = json.loads(text).get("format_version")
        if version != 1:
            raise InvalidArtifact(
                f"{path} has format version {version!r}; this Palettery reads version 1: upgrade it"
            )
        return ArtifactMetadata.model_validate_json(text)
    except (ValidationError, ValueError, AttributeError, RecursionError) as error:
        raise InvalidArtifact(f"{path}: its palettery metadata is damaged: {error}") from error


def _take_palette(
    tensors: dict[str, LocatedTensor], name: str, weight: PalettizedWeight
) -> dict[str, LocatedTensor]:
    """Remove a weight's arrays from the tensors, and check them against the metadata."""
    shapes = _shapes(name, weight)
    parts = {key: tensors.pop(f"{name}.{key}") for key in shapes if f"{name}.{key}" in tensors}
    quantized = "lut" in parts and parts["lut"].tensor.dtype != weight.dtype
    dtypes = _dtypes(weight, parts) if quantized else _PLAIN | {"lut": (weight.dtype,)}
    for key in ("indices", "lut", "lut_scale")[: 3 if quantized else 2]:
        if key not in parts:
            raise InvalidArtifact(f"{name}: the artifact lacks `{name}.{key}`")
    for key, stored in parts.items():
        _check(f"{name}.{key}", "shape", list(stored.tensor.shape), [list(shapes[key])])
        _check(f"{name}.{key}", "dtype", stored.tensor.dtype, dtypes[key])
    return parts


def _check(name: str, what: str, got: object, allowed: Sequence[object]) -> None:
    if got not in allowed:
        expected = " or ".join(map(str, allowed)) or "no such array"
        raise InvalidArtifact(f"{name} has {what} {got}, but the metadata asks for {expected}")


_QUANTIZED = ("I8", "U8", "F8_E4M3", "F8_E5M2")
_PLAIN: dict[str, Sequence[str]] = {
    "indices": ("U8",),
    "lut_scale": (),
    "lut_zero_point": (),
    "per_channel_scale": ("F32",),
}


def _dtypes(
    weight: PalettizedWeight, parts: Mapping[str, LocatedTensor]
) -> dict[str, Sequence[str]]:
    """Return the allowed dtypes of each array if the LUT is quantized."""
    return _PLAIN | {
        "lut": (weight.dtype, *_QUANTIZED),
        "lut_scale": ("F32",),
        "lut_zero_point": (parts["lut"].tensor.dtype,),
    }


def _shapes(name: str, weight: PalettizedWeight) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array that a weight may be stored as."""
    rank, groups = len(weight.shape), [1] * len(weight.shape)
    group_size = weight.group_size
    if (
        rank <= weight.axis
        or weight.shape[0] % weight.cluster_dim
        or (group_size is not None and weight.shape[weight.axis] % group_size)
    ):
        raise InvalidArtifact(
            f"{name}: a weight of shape {list(weight.shape)} takes no vectors of "
            f"{weight.cluster_dim} and groups of {group_size} on axis {weight.axis}"
        )
    if group_size is not None:
        groups[weight.axis] = weight.shape[weight.axis] // group_size
    packed = (_cells(weight, weight.shape[0]) * weight.n_bits + 7) // 8
    return {
        "indices": (packed,),
        "lut": (*groups, 2**weight.n_bits, weight.cluster_dim),
        "lut_scale": (*groups, 1, 1),
        "lut_zero_point": (*groups, 1, 1),
        "per_channel_scale": (weight.shape[0], *[1] * (rank - 1)),
    }


def _cells(weight: PalettizedWeight, rows: int) -> int:
    """Return the number of indices of this many dense rows."""
    return rows // weight.cluster_dim * math.prod(weight.shape[1:])


def _row_blocks(weight: PalettizedWeight) -> Iterator[tuple[int, int]]:
    """Yield (first row, rows) such that each block starts on a byte, a group and a vector."""
    row_bits = math.prod(weight.shape[1:]) * weight.n_bits
    grouped = weight.group_size if weight.axis == 0 and weight.group_size else 1
    unit = math.lcm(weight.cluster_dim * (8 // math.gcd(8, row_bits or 8)), grouped)
    row_bytes = math.prod(weight.shape[1:]) * NUMPY[weight.dtype].itemsize
    step = max(1, BLOCK_BYTES // max(1, unit * row_bytes)) * unit
    for first in range(0, weight.shape[0], step):
        yield first, min(step, weight.shape[0] - first)


def _palette(
    weight: PalettizedWeight,
    arrays: Mapping[str, NDArray[np.generic]],
    packed: memoryview,
    first: int,
    rows: int,
) -> Palette:
    """Return the palette of a block of rows."""
    own = dict(arrays)
    if "per_channel_scale" in own:
        own["per_channel_scale"] = own["per_channel_scale"][first : first + rows]
    if weight.axis == 0 and weight.group_size is not None:
        groups = slice(first // weight.group_size, (first + rows) // weight.group_size)
        own |= {key: own[key][groups] for key in own if key.startswith("lut")}
    shape = (rows // weight.cluster_dim, *weight.shape[1:])
    indices = kernels.unpack(np.frombuffer(packed, np.uint8), weight.n_bits, shape)
    return Palette(
        indices=indices,
        lut=own["lut"],
        lut_scale=own.get("lut_scale"),
        lut_zero_point=own.get("lut_zero_point"),
        per_channel_scale=own.get("per_channel_scale"),
        shape=(rows, *weight.shape[1:]),
        dtype=NUMPY[weight.dtype],
    )
