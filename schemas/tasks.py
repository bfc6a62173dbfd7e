"""One unit of compression work, small enough to send to a worker as JSON."""

from pydantic import NonNegativeInt

from schemas.base import Schema
from schemas.config.spec import PalettizationSpec
from schemas.plan import Clustering


class TensorSlice(Schema):
    """A whole tensor, or consecutive rows of a huge one, as bytes to fetch and cluster."""

    name: str
    dtype: str
    shape: tuple[NonNegativeInt, ...]
    """Shape of this slice."""
    strides: tuple[NonNegativeInt, ...] | None = None
    """Of the stored tensor, in elements; None for row-major."""
    path: str
    """File in the source store."""
    offset: NonNegativeInt
    size_bytes: NonNegativeInt
    first_row: NonNegativeInt = 0
    """Where the slice begins along axis 0 of the whole tensor."""
    spec: PalettizationSpec
    clustering: Clustering


class CompressionTask(Schema):
    """Tensors that one worker palettizes into one part file."""

    index: NonNegativeInt
    source_url: str
    """Object store that holds the uploaded files."""
    store_url: str
    """Object store that takes the part."""
    part_path: str
    """Where the part goes; when it exists, the task is done."""
    cancel_path: str | None = None
    """An object whose existence asks the task to stop."""
    slices: tuple[TensorSlice, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes the task reads."""
        return sum(part.size_bytes for part in self.slices)
