"""Weights of a PyTorch module that stay packed: indices and a palette, decoded when read."""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import embedding, linear, pad

from palettery.app.checkpoints.dtypes import DTYPES
from palettery.kernels.lut_product import decode_rows, lut_product, unit_indices
from palettery.schemas.artifact import PalettizedWeight

SCALE = "per_channel_scale"
SUFFIX = "_palette"
"""Suffix of the name of the submodule that holds a packed parameter."""
LEAST_PRODUCT = 1 << 18
"""Weights from which on a product with the packed weight is worth its kernel."""
MOST_VECTORS = 8
"""Vectors up to which a weight is decoded row by row; for more, by blocks."""
BLOCK = 1 << 22
"""Weights that are decoded at once."""


class PackedWeight(nn.Module):
    """A palettized weight: its arrays are buffers, named and stored as in an artifact.

    Calling it returns the dense weight, in a dtype that `half()` and the like change.
    """

    def __init__(
        self,
        weight: PalettizedWeight,
        arrays: Mapping[str, torch.Tensor],
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weight = weight
        for key, array in arrays.items():
            self.register_buffer(key, array)
        decoded = dtype or getattr(torch, str(DTYPES[weight.dtype].torch))
        zero = torch.zeros((), dtype=decoded, device="cpu")
        self.register_buffer("zero", zero, persistent=False)

    def forward(self) -> torch.Tensor:
        """Return the weight.

        Shapes: [*shape] of the weight.
        """
        weight, arrays = self.weight, dict(self.named_buffers())
        if self._has_kernel(arrays["indices"]):
            lut = self._rows_lut()
            decoded = decode_rows(self._packed_rows(), lut.numpy())
            return torch.from_numpy(decoded).to(self._lut_dtype()).reshape(weight.shape)
        if weight.stored is None:
            dense = _look_up(weight, arrays["indices"], self._lut())
        else:
            dense = _look_up_stored(weight, arrays["indices"], self._lut(), arrays["mask"])
        return self._scaled(dense, slice(None))

    def has_product(self, vectors: torch.Tensor) -> bool:
        """Return whether `product` takes these vectors, and is worth it."""
        if len(self.weight.shape) != 2 or math.prod(self.weight.shape) < LEAST_PRODUCT:
            return False
        if torch.is_grad_enabled() and vectors.requires_grad:
            return False
        lut = self.get_buffer("lut")
        fits = vectors.shape[-1:] == self.weight.shape[1:] and vectors.dtype == self._lut_dtype()
        return fits and vectors.device == lut.device and self._has_kernel(vectors)

    def product(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the products of vectors with the rows of the weight, summed in float32.

        The dense weight is never whole in memory.

        Shapes: [..., columns] -> [..., rows]
        """
        rows, columns = self.weight.shape
        flat = vectors.detach().reshape(-1, columns).float().contiguous()
        packed, lut = self._packed_rows(), self._rows_lut().numpy()
        if len(flat) <= MOST_VECTORS:
            products = torch.from_numpy(lut_product(flat.numpy(), packed, lut))
        else:
            products = torch.empty(len(flat), rows)
            group = rows // len(lut)
            step = max(1, BLOCK // (columns * group)) * group
            for first in range(0, rows, step):
                own = slice(first, first + step)
                groups = slice(first // group, -(-own.stop // group))
                block = torch.from_numpy(decode_rows(packed[own], lut[groups]))
                products[:, own] = linear(flat, block)
        return products.to(vectors.dtype).reshape(*vectors.shape[:-1], rows)

    def _has_kernel(self, tensor: torch.Tensor) -> bool:
        """Return whether the CPU's kernels decode the weight: rows and groups are whole units."""
        weight = self.weight
        is_plain = weight.stored is None and weight.cluster_dim == 1 and weight.dtype != "F64"
        is_live = type(tensor) is torch.Tensor and tensor.device.type == "cpu"
        if not is_plain or not is_live or torch.compiler.is_compiling() or len(weight.shape) < 2:
            return False
        is_across = weight.axis == 1 and weight.group_size is not None
        together = weight.group_size if is_across and weight.group_size else weight.shape[1]
        size = together * math.prod(weight.shape[2:])
        is_whole = size > 0 and size % unit_indices(weight.n_bits) == 0 and weight.shape[0] > 0
        return is_whole and not (is_across and SCALE in dict(self.named_buffers()))

    def _packed_rows(self) -> Any:
        """Return the indices, a row for each of the weight. Shapes: -> (rows, bytes)."""
        return self.get_buffer("indices").reshape(self.weight.shape[0], -1).numpy()

    def _rows_lut(self) -> torch.Tensor:
        """Return the LUTs with all scales, in float32, rounded as the weight is.

        Shapes: -> (groups of rows, groups of columns, 2**n_bits)
        """
        lut = self._lut()
        by_row, by_column = lut.shape[0], math.prod(lut.shape[1:-2])
        lut = lut.reshape(by_row, by_column, -1)
        if SCALE in dict(self.named_buffers()):
            rows = self.weight.shape[0]
            lut = lut.repeat_interleave(rows // by_row, 0)
            lut = self._scaled(lut, slice(None))
        return lut.float().contiguous()

    def _lut_dtype(self) -> torch.dtype:
        """Return the dtype of the decoded weight."""
        arrays = dict(self.named_buffers())
        return arrays["zero" if "lut_scale" in arrays else "lut"].dtype

    def has_row_access(self) -> bool:
        """Return whether rows can be decoded by themselves: each begins on a whole byte."""
        weight = self.weight
        if weight.stored is not None or weight.cluster_dim > 1 or len(weight.shape) != 2:
            return False
        return weight.shape[1] > 0 and weight.shape[1] % unit_indices(weight.n_bits) == 0

    def rows(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return rows of the weight.

        Shapes: numbers [...] -> [..., columns]
        """
        weight, flat = self.weight, numbers.reshape(-1)
        packed = self.get_buffer("indices").reshape(weight.shape[0], -1)[flat]
        indices = _unpack(packed.reshape(-1), weight.n_bits, flat.numel() * weight.shape[1])
        indices = indices.reshape(-1, weight.shape[1])
        lut = self._lut()
        if weight.group_size is not None:
            positions = flat[:, None] if weight.axis == 0 else _positions(weight.shape[1], lut)
            indices = indices + (positions // weight.group_size * 2**weight.n_bits).int()
        rows = self._scaled(lut.reshape(-1)[indices], flat)
        return rows.reshape(*numbers.shape, weight.shape[1])

    def _lut(self) -> torch.Tensor:
        """Return the LUT with its scale and zero point applied.

        Shapes: [groups0, groups1, 1.., 2**n_bits, cluster_dim]
        """
        arrays = dict(self.named_buffers())
        lut = arrays["lut"]
        if (scale := arrays.get("lut_scale")) is None:
            return lut
        wide = lut.float()
        if (zero_point := arrays.get("lut_zero_point")) is not None:
            wide = wide - zero_point.float()
        return (wide * scale.float()).to(arrays["zero"].dtype)

    def _scaled(self, dense: torch.Tensor, rows: Any) -> torch.Tensor:
        """Return rows of the dense weight, times their scales if they have any."""
        scale = dict(self.named_buffers()).get(SCALE)
        if scale is None:
            return dense
        wide = dense if dense.dtype == torch.float64 else dense.float()
        own = scale[rows]
        own = own.reshape(-1, *[1] * (dense.dim() - 1))
        return (wide * own).to(dense.dtype)


def replace_weight(
    module: nn.Module, name: str, packed: PackedWeight, *, is_tied: bool = False
) -> None:
    """Replace a parameter or buffer by a packed weight.

    Reading the attribute decodes it; an embedding looks up the rows alone. With `is_tied`, another
    module has the packed weight already, and this one has no arrays of its own to load or save.
    """
    path, _, local = name.rpartition(".")
    owner = module.get_submodule(path)
    delattr(owner, local)
    if is_tied:
        owner.__dict__[local + SUFFIX] = packed  # which does not make it a submodule
    else:
        owner.add_module(local + SUFFIX, packed)
    members: dict[str, Any] = {local: property(lambda self: getattr(self, local + SUFFIX)())}
    rows_alone = type(owner).forward is nn.Embedding.forward and owner.max_norm is None
    if rows_alone and packed.has_row_access():
        members["forward"] = _embed
    if type(owner).forward is nn.Linear.forward:
        members["forward"] = _linear
    kind = type(owner)
    owner.__class__ = type(f"Packed{kind.__name__.removeprefix('Packed')}", (kind,), members)


def _embed(self: nn.Module, numbers: torch.Tensor) -> torch.Tensor:
    """Return rows of a packed embedding."""
    packed = getattr(self, f"weight{SUFFIX}")
    assert isinstance(packed, PackedWeight)  # noqa: S101 - `replace_weight` added it
    return packed.rows(numbers)


def _linear(self: nn.Module, vectors: torch.Tensor) -> torch.Tensor:
    """Return what a Linear of a packed weight computes, with the weight dense only for gradients.

    Sums are in float32, in another order than torch's.
    """
    layer, packed = cast("nn.Linear", self), getattr(self, f"weight{SUFFIX}", None)
    if not isinstance(packed, PackedWeight) or not packed.has_product(vectors):
        return nn.Linear.forward(layer, vectors)
    products = packed.product(vectors)
    return products if layer.bias is None else products + layer.bias


def _look_up(weight: PalettizedWeight, packed: torch.Tensor, lut: torch.Tensor) -> torch.Tensor:
    rows, *rest = weight.shape
    cells = (rows // weight.cluster_dim, *rest)
    entries = lut.reshape(-1, weight.cluster_dim)
    indices = _unpack(packed, weight.n_bits, math.prod(cells)).reshape(cells)
    if weight.group_size is not None:
        indices = indices + _first_entries(weight, cells, lut)
    return embedding(indices, entries).movedim(-1, 1).reshape(weight.shape)


def _look_up_stored(
    weight: PalettizedWeight, packed: torch.Tensor, lut: torch.Tensor, packed_mask: torch.Tensor
) -> torch.Tensor:
    """Return a sparse weight without row scales; all shapes are known before it runs."""
    if not weight.stored:
        return lut.new_zeros(weight.shape)
    dim = weight.cluster_dim
    mask = _unpack(packed_mask, 1, math.prod(weight.shape)).reshape(weight.shape)
    place = (mask.reshape(-1).cumsum(0, dtype=torch.int32) - 1).clamp(0).reshape(weight.shape)
    indices = _unpack(packed, weight.n_bits, weight.stored // dim)[place // dim]
    if weight.group_size is not None:
        indices = indices + _first_entries(weight, weight.shape, lut)
    return lut.reshape(-1)[indices * dim + place % dim] * mask.to(lut.dtype)


def _unpack(packed: torch.Tensor, n_bits: int, count: int) -> torch.Tensor:
    """Return the indices in a bit stream, least significant bit first.

    Shapes: (bytes,) uint8 -> (count,) int32.
    """
    size = unit_indices(n_bits) * n_bits // 8
    if rest := packed.numel() % size:
        packed = pad(packed, (0, size - rest))
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
    """Return the first LUT entry of the group of each index, in a shape that broadcasts."""
    assert weight.group_size is not None  # noqa: S101 - callers checked
    by_vector = weight.axis == 0 and weight.stored is None
    group = weight.group_size // (weight.cluster_dim if by_vector else 1)
    shape = [-1 if axis == weight.axis else 1 for axis in range(len(cells))]
    return (_positions(cells[weight.axis], lut) // group * 2**weight.n_bits).reshape(shape)


def _positions(count: int, lut: torch.Tensor) -> torch.Tensor:
    return torch.arange(count, dtype=torch.int32, device=lut.device)
