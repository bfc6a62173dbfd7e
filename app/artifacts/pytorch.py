"""Artifacts in PyTorch: as dense tensors, or as packed weights of a module."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import embedding
from torch.nn.utils.parametrize import register_parametrization

from palettery.app.artifacts.files import open_files
from palettery.app.artifacts.reader import Artifact
from palettery.app.checkpoints.dtypes import DTYPES
from palettery.app.errors import InvalidArtifact, UnsupportedFormat
from palettery.kernels.arrays import to_torch
from palettery.schemas.artifact import PalettizedWeight

SCALE = "per_channel_scale"
Files = Path | str | Sequence[Path | str]
"""An artifact's file, the folder of its shards, or the shards."""


def load(artifact: Files) -> dict[str, torch.Tensor]:
    """Return a state dict of an artifact's tensors, decoded: LUT[indices] in the original dtype.

    Names that share a tensor share it here, too.

    Raises:
        InvalidArtifact: the files are not an artifact, or are damaged.
        UnsupportedFormat: torch has no dtype for a tensor.
    """
    opened = _open(artifact)
    state = {name: read_kept_tensor(opened, name) for name in opened.kept_tensors}
    state |= {name: to_tensor(opened.dense(name)) for name in opened.weights}
    return state | {alias: state[name] for alias, name in opened.tied_names().items()}


class IncompatibleKeys(NamedTuple):
    """Names in only one of module and artifact, as `load_state_dict` returns them."""

    missing_keys: list[str]
    """Names of the module's tensors that the artifact lacks; they are unchanged."""
    unexpected_keys: list[str]
    """Names of the artifact's tensors that the module lacks."""


def load_into(module: nn.Module, artifact: Files, *, strict: bool = True) -> IncompatibleKeys:
    """Load an artifact's tensors into a module; palettized weights stay packed.

    Each becomes a parametrization (`torch.nn.utils.parametrize`) of packed indices and palette,
    which decodes the weight whenever it is read; it can no longer be trained. The module takes the
    memory of the artifact, and of the weight in use. With `strict=False`, tensors that only one
    side has are returned instead of raising. Buffers that the module does not save
    (`persistent=False`) do not count as missing.

    Raises:
        InvalidArtifact: the files are not an artifact, are damaged, or are of another model; the
            module is unchanged.
        UnsupportedFormat: torch has no dtype for a tensor.
    """
    opened = _open(artifact)
    first_names = opened.first_names()
    state = module.state_dict(keep_vars=True)
    incompatible = IncompatibleKeys(
        sorted(state.keys() - first_names.keys()), sorted(first_names.keys() - state.keys())
    )
    if strict:
        _check_names(incompatible)
    shared = {name: first for name, first in first_names.items() if name in state}
    kept = {
        first: read_kept_tensor(opened, first)
        for first in {*shared.values()} & {*opened.kept_tensors}
    }
    _check_shapes(state, opened, shared, kept)
    module.load_state_dict(
        {name: kept[first] for name, first in shared.items() if first in kept}, strict=False
    )
    stored = {name: _stored(opened, name) for name in opened.weights if name in shared.values()}
    for name, first in shared.items():
        if first in stored:
            path, _, own = name.rpartition(".")
            owner = module.get_submodule(path)
            lookup = PaletteLookup(opened.weights[first], stored[first])
            delattr(owner, own)
            owner.register_buffer(own, torch.empty(0))  # a parameter would be trainable
            register_parametrization(owner, own, lookup, unsafe=True)
    return incompatible


class PaletteLookup(nn.Module):
    """Parametrization that decodes a weight from packed indices, a palette, and row scales."""

    def __init__(self, weight: PalettizedWeight, stored: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._weight, self._stored = weight, tuple(stored)

    def right_inverse(self, _: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the tensors that are stored in place of the weight."""
        return self._stored

    def forward(
        self, packed: torch.Tensor, lut: torch.Tensor, scale: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the weight.

        Shapes: packed (bytes,) uint8; lut [groups0, groups1, 1.., 2**n_bits, cluster_dim] in the
            weight's dtype; scale [rows, 1..] float32 -> the weight's.
        """
        weight = self._weight
        rows, *rest = weight.shape
        cells = (rows // weight.cluster_dim, *rest)
        entries = lut.reshape(-1, weight.cluster_dim)
        indices = _unpack(packed, weight.n_bits, math.prod(cells)).reshape(cells)
        if weight.group_size is not None:
            indices = indices + _first_entries(weight, cells, lut)
        dense = embedding(indices, entries).movedim(-1, 1).reshape(weight.shape)
        if scale is None:
            return dense
        wide = dense if dense.dtype == torch.float64 else dense.float()
        return (wide * scale).to(dense.dtype)


def to_tensor(array: NDArray[Any]) -> torch.Tensor:
    """Copy an array into a tensor, since torch needs writable memory."""
    tensor: torch.Tensor = to_torch(np.array(array))
    return tensor


def _open(artifact: Files) -> Artifact:
    paths = [artifact] if isinstance(artifact, Path | str) else artifact
    return open_files([Path(path) for path in paths])


def read_kept_tensor(artifact: Artifact, name: str) -> torch.Tensor:
    """Return a kept tensor, with the exact bytes of the artifact.

    Raises:
        UnsupportedFormat: torch has no dtype for it.
    """
    stored = artifact.kept_tensors[name].tensor
    dtype, shape = DTYPES[stored.dtype], list(stored.shape)
    if dtype.bits == 4 and shape:  # two values in each element
        shape[-1], odd = divmod(shape[-1], 2)
    if dtype.torch is None or (dtype.bits == 4 and (not shape or odd)):
        raise UnsupportedFormat(
            f"{name} is stored as {stored.dtype} of shape {list(stored.shape)}, which torch cannot "
            "hold; read its bytes with the safetensors library, or leave it out of the model"
        )
    raw = torch.empty(stored.size_bytes, dtype=torch.uint8)
    raw.numpy()[:] = np.frombuffer(artifact.data(artifact.kept_tensors[name]), np.uint8)
    tensor: torch.Tensor = raw.view(getattr(torch, dtype.torch)).reshape(shape)
    return tensor


def _check_names(incompatible: IncompatibleKeys) -> None:
    """Check that a module has the tensors of the artifact, and no others."""
    hint = "is it {} model? load_into(..., strict=False) leaves out what does not fit"
    if missing := incompatible.missing_keys:
        raise InvalidArtifact(
            f"the artifact lacks {_first_name(missing)}; {hint.format('of another')}"
        )
    if unknown := incompatible.unexpected_keys:
        raise InvalidArtifact(f"the module has no {_first_name(unknown)}; {hint.format('another')}")


def _check_shapes(
    state: Mapping[str, torch.Tensor],
    artifact: Artifact,
    shared: Mapping[str, str],
    kept: Mapping[str, torch.Tensor],
) -> None:
    for name, first in shared.items():
        weight = artifact.weights.get(first)
        shape = weight.shape if weight else kept[first].shape
        if (own := state[name].shape) != shape:
            raise InvalidArtifact(
                f"{name} has the shape {list(own)} in the module and {list(shape)} in the "
                "artifact; is it of another model?"
            )


def _first_name(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0] + more


def _stored(artifact: Artifact, name: str) -> tuple[torch.Tensor, ...]:
    """Return packed indices, padded to whole words, the palette in the weight's dtype, scales."""
    parts = artifact.palettes[name]
    packed = artifact.array(parts["indices"])
    padded = np.pad(packed, (0, -packed.size % _word_bytes(artifact.weights[name].n_bits)))
    scales = [artifact.array(parts[SCALE])] if SCALE in parts else []
    return tuple(map(to_tensor, (padded, artifact.lut(name), *scales)))


def _word_bytes(n_bits: int) -> int:
    """Return the fewest bytes that hold a whole number of indices."""
    return 3 if n_bits in (3, 6) else 1


def _unpack(packed: torch.Tensor, n_bits: int, count: int) -> torch.Tensor:
    """Return the indices in a bit stream, least significant bit first.

    Shapes: (bytes,) uint8, whole words -> (count,) int32.
    """
    size = _word_bytes(n_bits)
    lanes = packed.reshape(-1, size).to(torch.int32)
    words = lanes[:, 0]
    for lane in range(1, size):
        words = words | (lanes[:, lane] << (8 * lane))
    shifts = torch.arange(0, 8 * size, n_bits, dtype=torch.int32, device=packed.device)
    indices: torch.Tensor = (words[:, None] >> shifts) & (2**n_bits - 1)
    return indices.reshape(-1)[:count]


def _first_entries(
    weight: PalettizedWeight, cells: tuple[int, ...], lut: torch.Tensor
) -> torch.Tensor:
    """Return the first palette entry of each index's group, in a shape to broadcast."""
    assert weight.group_size is not None  # noqa: S101 - callers checked
    group = weight.group_size // (weight.cluster_dim if weight.axis == 0 else 1)
    place = torch.arange(cells[weight.axis], dtype=torch.int32, device=lut.device)
    shape = [-1 if axis == weight.axis else 1 for axis in range(len(cells))]
    return (place // group * 2**weight.n_bits).reshape(shape)
