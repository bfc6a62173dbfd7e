"""Stored tensors as contiguous row-major bytes, whatever their strides."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from palettery.app.checkpoints.dtypes import DTYPE_BITS
from palettery.app.storage.base import CHUNK_BYTES, ObjectReader
from palettery.schemas.checkpoint import StoredTensor


def array_view(
    data: memoryview, dtype: np.dtype, shape: Sequence[int], strides: Sequence[int] | None
) -> NDArray[np.generic]:
    """Return bytes as an array, without a copy; `strides` count elements, None is row-major."""
    flat: NDArray[np.generic] = np.frombuffer(data, dtype)
    if strides is None:
        return flat.reshape(shape)
    byte_strides = tuple(stride * flat.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(flat, shape, byte_strides, writeable=False)


def dense_size_bytes(tensor: StoredTensor) -> int:
    """Return the size of a tensor in row-major order."""
    return math.prod(tensor.shape) * DTYPE_BITS[tensor.dtype] // 8


def dense_chunks(source: ObjectReader, path: str, tensor: StoredTensor) -> Iterator[memoryview]:
    """Yield a tensor's bytes in row-major order; one with strides is fetched whole."""
    if tensor.strides is None:
        yield from source.chunks(path, tensor.offset, tensor.size_bytes)
        return
    element_dtype = np.dtype(f"V{DTYPE_BITS[tensor.dtype] // 8}")
    data = source.read(path, tensor.offset, tensor.size_bytes)
    array = array_view(data, element_dtype, tensor.shape, tensor.strides)
    rows = max(1, CHUNK_BYTES * len(array) // max(1, dense_size_bytes(tensor)))
    for first in range(0, len(array), rows):
        block = np.ascontiguousarray(array[first : first + rows])
        yield block.reshape(-1).view(np.uint8).data
