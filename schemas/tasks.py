"""One unit of compression work, small enough to send to a worker as JSON."""

from pydantic import NonNegativeInt

from schemas.base import Schema
from schemas.config.spec import PalettizationSpec
from schemas.plan import Clustering


class StoredRows(Schema):
    """A whole tensor, or consecutive rows of one, as bytes to fetch."""

    dtype: str
    shape: tuple[NonNegativeInt, ...]
    """Of these rows."""
    strides: tuple[NonNegativeInt, ...] | None = None
    """Of the stored tensor, in elements; None for row-major."""
    path: str
    """File in its store."""
    offset: NonNegativeInt
    size_bytes: NonNegativeInt


class TensorSlice(StoredRows):
    """A whole tensor, or consecutive rows of a huge one, to fetch and cluster."""

    name: str
    first_row: NonNegativeInt = 0
    """Where the slice begins along axis 0 of the whole tensor."""
    spec: PalettizationSpec
    clustering: Clustering
    sensitivity: StoredRows | None = None
    """How much the error of each of its weights counts; None counts all alike."""


class CompressionTask(Schema):
    """Tensors that one worker palettizes into one part file."""

    index: NonNegativeInt
    source_url: str
    """Object store that holds the uploaded model."""
    store_url: str
    """Object store that takes the part."""
    sensitivities_url: str | None = None
    """Object store that holds the sensitivities; None where the model lies."""
    part_path: str
    """Where the part goes; when it exists, the task is done."""
    cancel_path: str | None = None
    """An object whose existence asks the task to stop."""
    slices: tuple[TensorSlice, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights the task reads."""
        return sum(part.size_bytes for part in self.slices)
