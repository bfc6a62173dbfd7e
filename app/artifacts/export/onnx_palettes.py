"""Palettes in an ONNX graph: nodes that compute a weight from packed indices and a LUT.

Their operators are in opset 19. Indices of 1, 2 and 4 bits are stored as in an artifact, in words
of 32 bits; those of 3 and 6 bits as two such arrays, of their low and of their high bits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray
from onnx_ir.tape import Tape

from palettery import kernels
from palettery.app.artifacts.packed_weights import SCALE
from palettery.app.artifacts.reader import Artifact
from palettery.kernels.arrays import to_numpy

DTYPES = {"F16": ir.DataType.FLOAT16, "F32": ir.DataType.FLOAT}
LOW_BITS = {3: 2, 6: 4}
"""Bits per index -> how many of them, the low ones, are in an array of their own."""
WORD_BITS = 32
INT32, FLOAT, BOOL = ir.DataType.INT32, ir.DataType.FLOAT, ir.DataType.BOOL


@dataclass(frozen=True)
class WeightNodes:
    """Nodes of one weight, recorded on a tape."""

    tape: Tape
    artifact: Artifact
    name: str
    """Name of the weight."""

    def add(self) -> ir.Value:
        """Record everything, and return the weight, which has the bits of the decoded artifact."""
        weight = self.artifact.weights[self.name]
        dtype = DTYPES[weight.dtype]
        if not math.prod(weight.shape) or weight.stored == 0:
            zeros = ir.tensor(np.zeros(1, dtype.numpy()))
            return self._op("ConstantOfShape", self._int64(weight.shape), value=zeros)
        if weight.stored is None:
            values = self._look_up()
        else:
            mask = self._unpack("mask", self._packed("mask"), 1, math.prod(weight.shape))
            values = self._look_up_stored(mask, weight.stored)
        values = self._reshape(values, weight.shape)
        if SCALE in self._arrays():
            wide = self._op("Mul", self._cast(values, FLOAT), self._stored(SCALE))
            values = self._cast(wide, dtype)
        if weight.stored is not None:  # zeros are exactly zero, whatever the values there
            is_stored = self._reshape(self._cast(mask, BOOL), weight.shape)
            values = self._op("Where", is_stored, values, self._constant(0, dtype.numpy()))
        return values

    def _look_up(self) -> ir.Value:
        """Return LUT[indices], in any shape."""
        weight = self.artifact.weights[self.name]
        rows, *rest = weight.shape
        dim, cells = weight.cluster_dim, (rows // weight.cluster_dim, *rest)
        group_size = weight.group_size
        if group_size is not None and weight.axis == 0:
            group_size //= dim
        indices = self._of_all_groups(self._indices(math.prod(cells)), cells, group_size)
        if dim == 1:
            return self._op("Gather", self._reshape(self._lut(), [-1]), indices)
        vectors = self._op("Gather", self._reshape(self._lut(), [-1, dim]), indices)
        vectors = self._reshape(vectors, [*cells, dim])
        return self._op("Transpose", vectors, perm=[0, len(cells), *range(1, len(cells))])

    def _look_up_stored(self, mask: ir.Value, stored: int) -> ir.Value:
        """Return the values of a sparse weight; the n-th 1 of the mask has the n-th one.

        Where the mask is 0, the value is any.
        """
        weight = self.artifact.weights[self.name]
        dim, shape, group_size = weight.cluster_dim, weight.shape, weight.group_size
        places = self._op("Sub", self._op("CumSum", mask, self._int64(0)), self._int32(1))
        places = self._op("Max", places, self._int32(0))
        lut, indices = self._reshape(self._lut(), [-1]), self._indices(stored // dim)
        if dim == 1:
            indices = self._of_all_groups(self._op("Gather", indices, places), shape, group_size)
            return self._op("Gather", lut, indices)
        vectors = self._op("Div", places, self._int32(dim))
        parts = self._op("Sub", places, self._op("Mul", vectors, self._int32(dim)))
        indices = self._of_all_groups(self._op("Gather", indices, vectors), shape, group_size)
        entries = self._op("Mul", self._reshape(indices, [-1]), self._int32(dim))
        return self._op("Gather", lut, self._op("Add", entries, parts))

    def _of_all_groups(
        self, indices: ir.Value, cells: Sequence[int], group_size: int | None
    ) -> ir.Value:
        """Return indices into the LUTs of all groups, one after the other.

        Shapes: (count,) -> [*cells], where the axis of groups is two: groups, cells of a group.
        """
        weight = self.artifact.weights[self.name]
        if group_size is None:
            return self._reshape(indices, cells)
        axis, entries = weight.axis, 2**weight.n_bits
        groups = cells[axis] // group_size
        shape = [*cells[:axis], groups, group_size, *cells[axis + 1 :]]
        first = self._op("Range", *map(self._int32, (0, groups * entries, entries)))
        first = self._reshape(first, [groups, *[1] * (len(shape) - axis - 1)])
        return self._op("Add", self._reshape(indices, shape), first)

    def _indices(self, count: int) -> ir.Value:
        """Return the indices. Shapes: -> (count,) int32."""
        n_bits = self.artifact.weights[self.name].n_bits
        low_bits = LOW_BITS.get(n_bits)
        if low_bits is None:
            return self._unpack("indices", self._packed("indices"), n_bits, count)
        indices: NDArray[np.uint8] = to_numpy(self.artifact.palette(self.name).indices).reshape(-1)
        low = kernels.pack(indices & np.uint8(2**low_bits - 1), low_bits)
        high = kernels.pack(indices >> np.uint8(low_bits), n_bits - low_bits)
        lows = self._unpack("indices_low", low, low_bits, count)
        highs = self._unpack("indices_high", high, n_bits - low_bits, count)
        return self._op("Add", lows, self._op("Mul", highs, self._int32(2**low_bits)))

    def _unpack(self, key: str, packed: NDArray[np.uint8], n_bits: int, count: int) -> ir.Value:
        """Store packed numbers, and return them. Shapes: (bytes,) -> (count,) int32."""
        if n_bits == 8:
            return self._cast(self._initializer(key, packed), INT32)
        padding = -len(packed) % (WORD_BITS // 8)
        words = self._initializer(key, np.pad(packed, (0, padding)).view("<u4").reshape(-1, 1))
        shifts = self._constant(np.arange(0, WORD_BITS, n_bits), np.uint32)
        shifted = self._op("BitShift", words, shifts, direction="RIGHT")
        numbers = self._op("BitwiseAnd", shifted, self._constant(2**n_bits - 1, np.uint32))
        flat = self._reshape(self._cast(numbers, INT32), [-1])
        return self._op("Slice", flat, self._int64([0]), self._int64([count]))

    def _lut(self) -> ir.Value:
        """Return the LUTs of all groups in the weight's dtype."""
        lut, arrays = self._stored("lut"), self._arrays()
        if "lut_scale" not in arrays:
            return lut
        wide = self._cast(lut, FLOAT)
        if "lut_zero_point" in arrays:
            wide = self._op("Sub", wide, self._cast(self._stored("lut_zero_point"), FLOAT))
        wide = self._op("Mul", wide, self._stored("lut_scale"))
        return self._cast(wide, DTYPES[self.artifact.weights[self.name].dtype])

    def _arrays(self) -> Any:
        return self.artifact.palettes[self.name]

    def _packed(self, key: str) -> NDArray[np.uint8]:
        return np.frombuffer(self.artifact.data(self._arrays()[key]), np.uint8)

    def _stored(self, key: str) -> ir.Value:
        return self._initializer(key, self.artifact.array(self._arrays()[key]))

    def _initializer(self, key: str, array: NDArray[Any]) -> ir.Value:
        """Store an array, named as it is in an artifact."""
        return self.tape.initializer(ir.tensor(array, name=f"{self.name}.{key}"))

    def _op(self, operator: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return self.tape.op(operator, inputs, attributes)

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        return self._op("Cast", value, to=dtype.value)

    def _reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        return self._op("Reshape", value, self._int64(shape))

    def _int64(self, values: ArrayLike) -> ir.Value:
        return self._constant(values, np.int64)

    def _int32(self, value: int) -> ir.Value:
        return self._constant(value, np.int32)

    def _constant(self, values: ArrayLike, dtype: Any) -> ir.Value:
        return self._op("Constant", value=ir.tensor(np.asarray(values, dtype)))
