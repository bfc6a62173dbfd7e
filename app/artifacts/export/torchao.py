"""A state dict of torchao's CodebookQuantizedTensor, saved by torch.

It is read by `torch.load(path, weights_only=True)` within
`torch.serialization.safe_globals([CodebookQuantizedTensor])`.

Source: torchao 0.18, `torchao.prototype.quantization.codebook_coreml`.
"""

import tempfile
from typing import Any

import torch

from palettery.app.artifacts.export.request import ExportRequest
from palettery.app.artifacts.pytorch import read_kept_tensor, to_tensor
from palettery.app.artifacts.reader import Artifact
from palettery.app.errors import InvalidArtifact
from palettery.app.storage.base import CHUNK_BYTES, Storage
from palettery.schemas.artifact import PalettizedWeight


def write_torchao(request: ExportRequest) -> str:
    """Write palettized tensors as codes and codebooks, and others unchanged.

    The whole state dict is built in memory, with one byte per index.
    """
    artifact = request.artifact
    state = {
        name: to_tensor(artifact.dense(name))
        if name in request.dense
        else _codebook(artifact, name)
        for name in artifact.weights
    }
    state |= {name: read_kept_tensor(artifact, name) for name in artifact.kept_tensors}
    for alias, name in artifact.tied_names().items():
        state[alias] = state[name]
    with tempfile.TemporaryFile() as file:
        torch.save(state, file)
        file.seek(0)
        return request.write(iter(lambda: file.read(CHUNK_BYTES), b""))


def check_torchao(request: ExportRequest) -> None:
    """Compare an export, as torchao decodes it, with the artifact.

    Raises:
        InvalidArtifact: names the tensor that differs.
    """
    artifact, state = request.artifact, _load(request.store, request.path)
    for alias, name in artifact.tied_names().items():
        _check(alias, _is_same(state.pop(alias, None), state.get(name)))
    for name in artifact.weights:
        is_equal = _is_dense if name in request.dense else _is_decoded
        _check(name, is_equal(artifact, name, state.pop(name, None)))
    for name in artifact.kept_tensors:
        _check(name, _is_same(state.pop(name, None), read_kept_tensor(artifact, name)))
    _check(next(iter(state), ""), not state)


def _codebook(artifact: Artifact, name: str) -> torch.Tensor:
    codes, lut = artifact.palette(name).indices, artifact.lut(name)
    return _quantized(to_tensor(codes), to_tensor(lut), artifact.weights[name])


def _quantized(codes: torch.Tensor, lut: torch.Tensor, weight: PalettizedWeight) -> torch.Tensor:
    from torchao.prototype.quantization.codebook_coreml import CodebookQuantizedTensor

    code_dtype, block_size = _layout(weight)
    tensor: torch.Tensor = CodebookQuantizedTensor(
        codes, lut, code_dtype, block_size, codes.shape, dtype=lut.dtype
    )
    return tensor


def _layout(weight: PalettizedWeight) -> tuple[torch.dtype, list[int]]:
    """Return the dtype of the codes, and the block that shares a palette; -1 is a whole axis."""
    block_size = [-1] * len(weight.shape)
    if weight.group_size is not None:
        block_size[weight.axis] = weight.group_size
    return getattr(torch, f"uint{weight.n_bits}"), block_size


def _load(store: Storage, path: str) -> dict[str, torch.Tensor]:
    from torchao.prototype.quantization.codebook_coreml import CodebookQuantizedTensor

    with tempfile.TemporaryFile() as file:
        for chunk in store.chunks(path, 0, store.size_bytes(path)):
            file.write(chunk)
        file.seek(0)
        with torch.serialization.safe_globals([CodebookQuantizedTensor]):
            state: dict[str, torch.Tensor] = torch.load(file, weights_only=True)
    return state


def _is_dense(artifact: Artifact, name: str, tensor: Any) -> bool:
    return _is_same(tensor, to_tensor(artifact.dense(name)))


def _is_decoded(artifact: Artifact, name: str, tensor: Any) -> bool:
    """Return whether torchao decodes a weight to LUT[indices].

    Blocks are decoded one by one, since torchao needs 30 bytes of memory per index.
    """
    from torchao.prototype.quantization.codebook_coreml import CodebookQuantizedTensor

    weight, lut_shape = artifact.weights[name], artifact.palettes[name]["lut"].tensor.shape
    if (
        not isinstance(tensor, CodebookQuantizedTensor)
        or (tensor.shape, tensor.codebook.shape) != (weight.shape, lut_shape)
        or (tensor.code_dtype, list(tensor.block_size)) != _layout(weight)
    ):
        return False
    for first, block in artifact.blocks(name):
        rows = slice(first, first + len(block))
        lut = tensor.codebook
        if weight.axis == 0 and weight.group_size is not None:
            lut = lut[rows.start // weight.group_size : rows.stop // weight.group_size]
        part = _quantized(tensor.codes[rows], lut, weight)
        if not _is_same(part.dequantize(), to_tensor(block)):
            return False
    return True


def _is_same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Return whether two tensors have the same bits."""
    if one is None or other is None or (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if type(one) is not torch.Tensor:  # two names of one palette
        return one is other or _is_same(one.codes, other.codes)  # type: ignore[attr-defined]
    one, other = one.reshape(-1), other.reshape(-1)
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def _check(name: str, is_equal: bool) -> None:
    if not is_equal:
        raise InvalidArtifact(f"{name}: the torchao export as read back is not LUT[indices]")
