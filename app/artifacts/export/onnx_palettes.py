"""Palettes in an ONNX graph: nodes that compute a weight from packed indices and a LUT.

Their operators are in opset 19. Indices are packed in bytes so that all are unpacked by a few
operations on whole arrays: with 4 bits, byte i of n has those of weights i and i + n. Indices of 3
and 6 bits are two such arrays, of their low and of their high bits.

onnxruntime computes weights once, as it loads a model, and until then keeps the result of every
node. So most of these results have one byte per weight.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray
from onnx_ir.tape import Tape

from palettery.app.artifacts.packed_weights import SCALE
from palettery.app.artifacts.palette_arrays import LocatedTensor
from palettery.app.artifacts.reader import Artifact
from palettery.kernels.arrays import to_numpy

DTYPES = {"F16": ir.DataType.FLOAT16, "F32": ir.DataType.FLOAT}
LOW_BITS = {3: 2, 6: 4}
"""Bits per index -> how many of them, the low ones, are in an array of their own."""
NUMBERS = 8
"""Packed numbers are filled up to a multiple of this, so that any number of bits fills bytes."""
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
        weight, mask = self.artifact.weights[self.name], self.artifact.mask(self.name)
        if not math.prod(weight.shape) or weight.stored == 0:
            zeros = ir.tensor(np.zeros(1, self._dtype().numpy()))
            return self._op("ConstantOfShape", self._int64(weight.shape), value=zeros)
        if mask is None:
            return self._scale(self._look_up())
        is_one = self._unpack("mask", mask.reshape(-1).view(np.uint8), 1)
        is_one = self._cast(self._take(is_one, weight.shape), BOOL)
        values = self._scale(self._look_up_stored(is_one))
        return self._op("Where", is_one, values, self._constant(0, self._dtype().numpy()))

    def _look_up(self) -> ir.Value:
        """Return LUT[indices], in the weight's shape."""
        weight = self.artifact.weights[self.name]
        rows, *rest = weight.shape
        dim, cells = weight.cluster_dim, (rows // weight.cluster_dim, *rest)
        group_size = weight.group_size
        if group_size is not None and weight.axis == 0:
            group_size //= dim
        indices = self._cast(self._take(self._unpack_indices(), cells), INT32)
        indices = self._of_all_groups(indices, cells, group_size)
        if dim == 1:
            return self._op("Gather", self._lut([-1]), indices)
        vectors = self._op("Gather", self._lut([-1, dim]), indices)
        rows_first = [0, len(cells), *range(1, len(cells))]
        return self._reshape(self._op("Transpose", vectors, perm=rows_first), weight.shape)

    def _look_up_stored(self, is_one: ir.Value) -> ir.Value:
        """Return a sparse weight: where the mask has its n-th 1, the n-th stored value.

        Where the mask is 0, it is the value of the next 1; behind the last, that of padding.
        """
        weight = self.artifact.weights[self.name]
        dim, flat = weight.cluster_dim, self._reshape(is_one, [-1])
        places = self._op("CumSum", self._cast(flat, INT32), self._int64(0), exclusive=1)
        places = self._reshape(places, weight.shape)
        vectors = places if dim == 1 else self._op("Div", places, self._int32(dim))
        stored = self._reshape(self._unpack_indices(padding=1), [-1])
        indices = self._cast(self._op("Gather", stored, vectors), INT32)
        entries = self._of_all_groups(indices, weight.shape, weight.group_size)
        if dim > 1:
            parts = self._op("Sub", places, self._op("Mul", vectors, self._int32(dim)))
            entries = self._op("Add", self._op("Mul", entries, self._int32(dim)), parts)
        return self._op("Gather", self._lut([-1]), entries)

    def _of_all_groups(
        self, indices: ir.Value, cells: Sequence[int], group_size: int | None
    ) -> ir.Value:
        """Return indices into the LUTs of all groups, one after the other. Shapes: [*cells]."""
        weight = self.artifact.weights[self.name]
        if group_size is None:
            return indices
        axis, entries = weight.axis, 2**weight.n_bits
        groups = cells[axis] // group_size
        first = self._op("Range", *map(self._int32, (0, groups * entries, entries)))
        first = self._reshape(first, [groups, 1])
        first = self._op("Expand", first, self._int64([groups, group_size]))
        first = self._reshape(first, [-1, *[1] * (len(cells) - axis - 1)])
        return self._op("Add", indices, first)

    def _unpack_indices(self, padding: int = 0) -> ir.Value:
        """Store the indices and then `padding` zeros or more; return all. Shapes: see `_unpack`."""
        n_bits = self.artifact.weights[self.name].n_bits
        indices: NDArray[np.uint8] = to_numpy(self.artifact.palette(self.name).indices).reshape(-1)
        indices = np.pad(indices, (0, padding))
        if (low_bits := LOW_BITS.get(n_bits)) is None:
            return self._unpack("indices", indices, n_bits)
        low, high = indices & np.uint8(2**low_bits - 1), indices >> np.uint8(low_bits)
        lows = self._reshape(self._unpack("indices_low", low, low_bits), [-1])
        highs = self._reshape(self._unpack("indices_high", high, n_bits - low_bits), [-1])
        highs = self._op("BitShift", highs, self._uint8(low_bits), direction="LEFT")
        return self._op("BitwiseOr", lows, highs)

    def _unpack(self, key: str, numbers: NDArray[np.uint8], n_bits: int) -> ir.Value:
        """Store numbers, and return them and then up to seven zeros, all in row-major order.

        Shapes: (count,) -> [numbers of a byte, bytes] uint8
        """
        per_byte = 8 // n_bits
        padded = np.pad(numbers, (0, -len(numbers) % NUMBERS)).reshape(per_byte, -1)
        if per_byte == 1:
            return self._initializer(key, padded)
        shifts = np.arange(0, 8, n_bits, dtype=np.uint8).reshape(-1, 1)
        packed = self._initializer(key, np.bitwise_or.reduce(padded << shifts, keepdims=True))
        shifted = self._op("BitShift", packed, self._uint8(shifts), direction="RIGHT")
        return self._op("BitwiseAnd", shifted, self._uint8(2**n_bits - 1))

    def _take(self, unpacked: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Return as many numbers as fill a shape, in that shape."""
        count = math.prod(shape)
        if count % NUMBERS:
            flat = self._reshape(unpacked, [-1])
            unpacked = self._op("Slice", flat, self._int64([0]), self._int64([count]))
        return self._reshape(unpacked, shape)

    def _lut(self, shape: Sequence[int]) -> ir.Value:
        """Return the LUTs of all groups in the weight's dtype."""
        lut, arrays = self._stored("lut"), self._arrays()
        if "lut_scale" in arrays:
            lut = self._cast(lut, FLOAT)
            if "lut_zero_point" in arrays:
                lut = self._op("Sub", lut, self._cast(self._stored("lut_zero_point"), FLOAT))
            lut = self._cast(self._op("Mul", lut, self._stored("lut_scale")), self._dtype())
        return self._reshape(lut, shape)

    def _scale(self, values: ir.Value) -> ir.Value:
        """Return a weight times the scales of its rows, if it has any, computed in float32."""
        if SCALE not in self._arrays():
            return values
        is_wide = self._dtype() == FLOAT
        wide = values if is_wide else self._cast(values, FLOAT)
        scaled = self._op("Mul", wide, self._stored(SCALE))
        return scaled if is_wide else self._cast(scaled, self._dtype())

    def _dtype(self) -> ir.DataType:
        return DTYPES[self.artifact.weights[self.name].dtype]

    def _arrays(self) -> Mapping[str, LocatedTensor]:
        return self.artifact.palettes[self.name]

    def _stored(self, key: str) -> ir.Value:
        return self._initializer(key, self.artifact.array(self._arrays()[key]))

    def _initializer(self, key: str, array: NDArray[Any]) -> ir.Value:
        """Store an array; its name is like those in an artifact."""
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

    def _uint8(self, values: ArrayLike) -> ir.Value:
        return self._constant(values, np.uint8)

    def _constant(self, values: ArrayLike, dtype: Any) -> ir.Value:
        return self._op("Constant", value=ir.tensor(np.asarray(values, dtype)))
