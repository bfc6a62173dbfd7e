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
from palettery.app.artifacts.palette_arrays import (
    LocatedTensor,
    cells,
    check_stored,
    row_blocks,
    take_palette,
)
from palettery.app.checkpoints.safetensors import NAME_CHARACTERS as MODEL_NAME_CHARACTERS
from palettery.app.checkpoints.safetensors import read_header
from palettery.app.errors import InvalidArtifact
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.kernels import Palette
from palettery.kernels.lut import dense_lut
from palettery.kernels.palette import look_up
from palettery.kernels.threads import CancellationCheck, never_cancel
from palettery.schemas.artifact import (
    METADATA_KEY,
    PALETTE_KEYS,
    ArtifactMetadata,
    PalettizedWeight,
)

NAME_CHARACTERS = MODEL_NAME_CHARACTERS + 1 + max(map(len, PALETTE_KEYS))
"""Most characters of an array's name: a tensor's name, a dot and a key."""


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
    check: CancellationCheck = never_cancel
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
        arrays, before = self._small_arrays(name), 0
        for first, rows in row_blocks(weight):
            self.check()
            mask, skip, start, stop = None, 0, cells(weight, first), cells(weight, first + rows)
            if weight.stored is not None:
                mask = self._mask(name, first, rows)
                start = before // weight.cluster_dim // 8 * 8  # of 8 indices, the first has a byte
                skip, before = before - start * weight.cluster_dim, before + int(mask.sum())
                stop = -(-before // weight.cluster_dim)
                check_stored(name, weight, before, is_last=first + rows == weight.shape[0])
            packed = self._range(
                parts["indices"],
                start * weight.n_bits // 8,
                ((stop - start) * weight.n_bits + 7) // 8,
            )
            indices = kernels.unpack(packed, weight.n_bits, (stop - start,))
            block = _palette(weight, arrays, indices, (first, rows), mask, skip)
            yield first, kernels.reconstruct(block, threads)

    def mask(self, name: str) -> NDArray[np.bool_] | None:
        """Return which weights of a sparse one are stored; None if it is not sparse."""
        weight = self.weights[name]
        if weight.stored is None:
            return None
        mask = self._mask(name, 0, weight.shape[0])
        check_stored(name, weight, int(mask.sum()), is_last=True)
        return mask

    def _mask(self, name: str, first: int, rows: int) -> NDArray[np.bool_]:
        """Return the mask of some rows that begin on a byte."""
        rest = self.weights[name].shape[1:]
        start, count = first * math.prod(rest), rows * math.prod(rest)
        packed = self._range(self.palettes[name]["mask"], start // 8, (count + 7) // 8)
        return kernels.unpack_mask(packed, (rows, *rest))

    def _range(self, stored: LocatedTensor, start: int, size_bytes: int) -> NDArray[np.uint8]:
        if not size_bytes:
            return np.empty(0, np.uint8)
        data = self.storage.read(stored.path, stored.tensor.offset + start, size_bytes)
        return np.frombuffer(data, np.uint8)

    def palette(self, name: str) -> Palette:
        """Return the palette of a weight; its indices are unpacked to one byte each."""
        weight, mask = self.weights[name], self.mask(name)
        packed = np.frombuffer(self.data(self.palettes[name]["indices"]), np.uint8)
        indices = kernels.unpack(packed, weight.n_bits, (cells(weight, weight.shape[0]),))
        return _palette(weight, self._small_arrays(name), indices, (0, weight.shape[0]), mask)

    def quantized(self, name: str) -> dict[str, NDArray[Any]] | None:
        """Return 8-bit weights with scale and zero point that are equal to an 8-bit palette.

        None if the weight has no such palette, is sparse, or has rows with scales of their own.
        Their product with the palette's is rounded, and (stored - zero point) * scale is not.

        Shapes: quantized the weight's, scale and zero_point [groups0, groups1, 1..].
        """
        weight, parts = self.weights[name], self.palettes[name]
        is_plain = (weight.n_bits, weight.cluster_dim, weight.dtype) == (8, 1, "F32")
        if not is_plain or weight.stored is not None or "lut_scale" not in parts:
            return None
        if "per_channel_scale" in parts:
            return None
        palette = self.palette(name)
        weights = look_up(palette.indices, palette.lut, weight.shape, None, None)
        arrays = {"quantized": weights, "scale": palette.lut_scale[..., 0, 0]}
        if palette.lut_zero_point is not None:
            arrays["zero_point"] = palette.lut_zero_point[..., 0, 0]
        return arrays

    def has_unequal_groups(self, name: str) -> bool:
        """Return whether groups of a sparse weight differ in their number of stored values."""
        mask, lut = self.mask(name), self.palettes[name]["lut"].tensor
        return mask is not None and bool(np.ptp(kernels.stored_per_group(mask, lut.shape)))

    def lut(self, name: str) -> NDArray[np.generic]:
        """Return the LUTs of a weight in its dtype, without reading the indices."""
        arrays = self._small_arrays(name)
        dtype = NUMPY[self.weights[name].dtype]
        lut: NDArray[np.generic] = dense_lut(
            arrays["lut"], dtype, arrays.get("lut_scale"), arrays.get("lut_zero_point")
        )
        return lut

    def _small_arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Return LUTs and scales."""
        parts = self.palettes[name]
        large = ("indices", "mask")
        return {key: self.array(stored) for key, stored in parts.items() if key not in large}

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
    palettes = {name: take_palette(tensors, name, weight) for name, weight in weights.items()}
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


def _palette(
    weight: PalettizedWeight,
    arrays: Mapping[str, NDArray[np.generic]],
    indices: NDArray[np.uint8],
    block: tuple[int, int],
    mask: NDArray[np.bool_] | None = None,
    skip: int = 0,
) -> Palette:
    """Return the palette of a block of rows: the first, and their number."""
    (first, rows), own = block, dict(arrays)
    if "per_channel_scale" in own:
        own["per_channel_scale"] = own["per_channel_scale"][first : first + rows]
    if weight.axis == 0 and weight.group_size is not None:
        groups = slice(first // weight.group_size, (first + rows) // weight.group_size)
        own |= {key: own[key][groups] for key in own if key.startswith("lut")}
    if mask is None:
        indices = indices.reshape(rows // weight.cluster_dim, *weight.shape[1:])
    return Palette(
        indices=indices,
        lut=own["lut"],
        lut_scale=own.get("lut_scale"),
        lut_zero_point=own.get("lut_zero_point"),
        per_channel_scale=own.get("per_channel_scale"),
        shape=(rows, *weight.shape[1:]),
        dtype=NUMPY[weight.dtype],
        mask=mask,
        skip=skip,
    )
