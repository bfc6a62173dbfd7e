"""Artifacts in PyTorch: as dense tensors, or as packed weights of a module."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from palettery.app.artifacts.files import open_files
from palettery.app.artifacts.packed_weights import PackedWeight, replace_weight
from palettery.app.artifacts.reader import Artifact
from palettery.app.checkpoints.dtypes import DTYPES
from palettery.app.errors import InvalidArtifact, UnsupportedFormat
from palettery.kernels.arrays import to_torch

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

    Each becomes a `PackedWeight`, which decodes the weight whenever it is read; it can no longer
    be trained. The module takes the memory of the artifact, and of the weight in use; of an
    embedding, only the rows asked for are decoded. With `strict=False`, tensors that only one side
    has are returned instead of raising. Buffers that the module does not save (`persistent=False`)
    do not count as missing.

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
    packed = {
        name: PackedWeight(weight, _stored_arrays(opened, name))
        for name, weight in opened.weights.items()
        if name in shared.values()
    }
    for name, first in shared.items():
        if first in packed:
            replace_weight(module, name, packed[first])
    return incompatible


def _stored_arrays(artifact: Artifact, name: str) -> dict[str, torch.Tensor]:
    """Return the arrays of a palettized weight, as they are stored."""
    artifact.mask(name)  # which checks the number of stored weights
    return {key: to_tensor(artifact.array(part)) for key, part in artifact.palettes[name].items()}


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
