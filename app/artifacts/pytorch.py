"""Artifacts for PyTorch: as dense tensors, or looked up in a module where they are used."""

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
    """A state dict of an artifact's tensors, decoded: LUT[indices] in the original dtype.

    Names that share a tensor share it here, too.

    Raises:
        InvalidArtifact: it is none, or damaged.
        UnsupportedFormat: a tensor has a dtype that torch has not.
    """
    opened = _opened(artifact)
    state = {name: kept_tensor(opened, name) for name in opened.kept}
    state |= {name: tensor_of(opened.dense(name)) for name in opened.weights}
    return state | {alias: state[name] for alias, name in opened.tied().items()}


class Incompatible(NamedTuple):
    """Names that only the module or only the artifact has, as `load_state_dict` returns them."""

    missing_keys: list[str]
    """Of the module; these tensors stay as they were."""
    unexpected_keys: list[str]
    """Of the artifact."""


def load_into(module: nn.Module, artifact: Files, *, strict: bool = True) -> Incompatible:
    """Give a module an artifact's tensors; palettized weights stay packed until they are used.

    Each becomes a parametrization (`torch.nn.utils.parametrize`) that holds packed indices and
    palette, and looks the weight up whenever it is read; it can no longer be trained. Memory is the
    artifact's, and that of the weight in use. With `strict=False` a tensor that only one of both
    has is named in what is returned, instead of refused. Buffers that the module does not save
    (`persistent=False`) are not missing.

    Raises:
        InvalidArtifact: it is none, or damaged, or of another model, which stays as it was.
        UnsupportedFormat: a tensor has a dtype that torch has not.
    """
    opened = _opened(artifact)
    firsts = opened.firsts()
    has = module.state_dict(keep_vars=True)
    apart = Incompatible(sorted(has.keys() - firsts.keys()), sorted(firsts.keys() - has.keys()))
    if strict:
        _check_names(apart)
    shared = {name: first for name, first in firsts.items() if name in has}
    kept = {first: kept_tensor(opened, first) for first in {*shared.values()} & {*opened.kept}}
    _check_shapes(has, opened, shared, kept)
    module.load_state_dict(
        {name: kept[first] for name, first in shared.items() if first in kept}, strict=False
    )
    stored = {name: _stored(opened, name) for name in opened.weights if name in shared.values()}
    for name, first in shared.items():
        if first in stored:
            path, _, own = name.rpartition(".")
            look_up, owner = (
                LookUp(opened.weights[first], stored[first]),
                module.get_submodule(path),
            )
            delattr(owner, own)
            owner.register_buffer(own, torch.empty(0))  # in a parameter's place come others
            register_parametrization(owner, own, look_up, unsafe=True)
    return apart


class LookUp(nn.Module):
    """Gives a weight for packed indices, a palette and, if it has one, the scale of each row."""

    def __init__(self, weight: PalettizedWeight, stored: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._weight, self._stored = weight, tuple(stored)

    def right_inverse(self, _: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What is kept in the weight's place."""
        return self._stored

    def forward(
        self, packed: torch.Tensor, lut: torch.Tensor, scale: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The weight.

        Shapes: packed (bytes,) uint8; lut [groups0, groups1, 1.., 2**n_bits, cluster_dim] in the
            weight's dtype; scale [rows, 1..] float32 -> the weight's.
        """
        weight = self._weight
        rows, *rest = weight.shape
        cells = (rows // weight.cluster_dim, *rest)
        entries = lut.reshape(-1, weight.cluster_dim)
        found = _unpacked(packed, weight.n_bits, math.prod(cells)).reshape(cells)
        if weight.group_size is not None:
            found = found + _first_entries(weight, cells, lut)
        dense = embedding(found, entries).movedim(-1, 1).reshape(weight.shape)
        if scale is None:
            return dense
        wide = dense if dense.dtype == torch.float64 else dense.float()
        return (wide * scale).to(dense.dtype)


def tensor_of(array: NDArray[Any]) -> torch.Tensor:
    """A tensor of its own memory, which torch wants to be writable."""
    made: torch.Tensor = to_torch(np.array(array))
    return made


def _opened(artifact: Files) -> Artifact:
    paths = [artifact] if isinstance(artifact, Path | str) else artifact
    return open_files([Path(path) for path in paths])


def kept_tensor(artifact: Artifact, name: str) -> torch.Tensor:
    """An untouched tensor, with the bytes that the artifact has.

    Raises:
        UnsupportedFormat: torch has no such dtype.
    """
    stored = artifact.kept[name].tensor
    dtype, shape = DTYPES[stored.dtype], list(stored.shape)
    if dtype.bits == 4 and shape:  # two in each element
        shape[-1], odd = divmod(shape[-1], 2)
    if dtype.torch is None or (dtype.bits == 4 and (not shape or odd)):
        raise UnsupportedFormat(
            f"{name} is stored as {stored.dtype} of shape {list(stored.shape)}, which torch cannot "
            "hold; read its bytes with the safetensors library, or leave it out of the model"
        )
    raw = torch.empty(stored.size_bytes, dtype=torch.uint8)
    raw.numpy()[:] = np.frombuffer(artifact.data(artifact.kept[name]), np.uint8)
    made: torch.Tensor = raw.view(getattr(torch, dtype.torch)).reshape(shape)
    return made


def _check_names(apart: Incompatible) -> None:
    """See that a module has what the artifact has, and nothing else."""
    hint = "is it {} model? load_into(..., strict=False) leaves out what does not fit"
    if missing := apart.missing_keys:
        raise InvalidArtifact(f"the artifact lacks {_named(missing)}; {hint.format('of another')}")
    if unknown := apart.unexpected_keys:
        raise InvalidArtifact(f"the module has no {_named(unknown)}; {hint.format('another')}")


def _check_shapes(
    has: Mapping[str, torch.Tensor],
    artifact: Artifact,
    shared: Mapping[str, str],
    kept: Mapping[str, torch.Tensor],
) -> None:
    for name, first in shared.items():
        weight = artifact.weights.get(first)
        shape = weight.shape if weight else kept[first].shape
        if has[name].shape != shape:
            raise InvalidArtifact(
                f"{name} has the shape {list(has[name].shape)} in the module and {list(shape)} in "
                "the artifact; is it of another model?"
            )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0] + more


def _stored(artifact: Artifact, name: str) -> tuple[torch.Tensor, ...]:
    """Packed indices, filled up to whole words, the palette in the weight's dtype, and scales."""
    parts = artifact.palettes[name]
    packed = artifact.array(parts["indices"])
    filled = np.pad(packed, (0, -packed.size % _word_bytes(artifact.weights[name].n_bits)))
    scales = [artifact.array(parts[SCALE])] if SCALE in parts else []
    return tuple(map(tensor_of, (filled, artifact.lut(name), *scales)))


def _word_bytes(n_bits: int) -> int:
    """The fewest bytes that whole indices fill."""
    return 3 if n_bits in (3, 6) else 1


def _unpacked(packed: torch.Tensor, n_bits: int, count: int) -> torch.Tensor:
    """Indices of a bit stream, least significant bit first.

    Shapes: (bytes,) uint8, whole words -> (count,) int32.
    """
    size = _word_bytes(n_bits)
    lanes = packed.reshape(-1, size).to(torch.int32)
    words = lanes[:, 0]
    for lane in range(1, size):
        words = words | (lanes[:, lane] << (8 * lane))
    shifts = torch.arange(0, 8 * size, n_bits, dtype=torch.int32, device=packed.device)
    found: torch.Tensor = (words[:, None] >> shifts) & (2**n_bits - 1)
    return found.reshape(-1)[:count]


def _first_entries(
    weight: PalettizedWeight, cells: tuple[int, ...], lut: torch.Tensor
) -> torch.Tensor:
    """Where the palette of each index begins, to be broadcast."""
    assert weight.group_size is not None  # noqa: S101 - callers checked
    group = weight.group_size // (weight.cluster_dim if weight.axis == 0 else 1)
    place = torch.arange(cells[weight.axis], dtype=torch.int32, device=lut.device)
    shape = [-1 if axis == weight.axis else 1 for axis in range(len(cells))]
    return (place // group * 2**weight.n_bits).reshape(shape)
