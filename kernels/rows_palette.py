"""Weights that are read in blocks of rows, and their palettes."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from palettery.kernels.metrics import Metrics


class RowSource(Protocol):
    """A tensor that is read by rows, along its first axis."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the tensor."""

    def read(self, first: int, count: int) -> NDArray[Any]:
        """Return some rows. Each pass reads them in order. Shapes: -> (count, *shape[1:])."""


@dataclass
class RowsPalette:
    """A palettized weight whose indices are computed lazily, in a pass over its rows.

    Shapes: as in `Palette`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    lut: NDArray[Any]
    lut_scale: NDArray[np.float32] | None
    lut_zero_point: NDArray[Any] | None
    per_channel_scale: NDArray[np.float32] | None
    last_pass: Callable[[], Generator[NDArray[np.uint8], None, Metrics]]
    """Yield the packed indices in parts of whole bytes, and return the metrics."""
    masks: Callable[[], Iterator[NDArray[np.uint8]]]
    """Return the packed mask in parts of whole bytes; each call is a pass over the rows."""
    num_stored: int | None
    """Number of stored weights of a sparse weight; None if it is not sparse."""
    metrics: Metrics | None = None
    """Errors and statistics; None until `packed` was read to its end."""

    def packed(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the packed indices in parts of whole bytes; each call is a pass over the rows."""
        self.metrics = yield from self.last_pass()
