"""Statistics of palettized tensors, for charts."""

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from palettery.schemas.base import Schema


class TensorStatistics(Schema):
    """Weights, palette and error of a palettized tensor, summarized for charts.

    Cell `i` of a histogram counts values from `(first_cell + i) * 2**cell_exponent` up to the
    beginning of the next cell.
    """

    name: str
    """Name of the tensor."""
    sampled: NonNegativeInt
    """Number of weights in the histograms, evenly sampled from the tensor; at most about 32,000."""
    cell_exponent: int
    """Exponent of the cell width, 2**cell_exponent; one cell begins at zero."""
    first_cell: int
    """Number of the first cell, counted from the one that begins at zero."""
    weights: tuple[NonNegativeInt, ...]
    """Histogram of the weights; at most 128 cells."""
    reconstructed: tuple[NonNegativeInt, ...]
    """Histogram of the reconstructed values of the same weights, with the same cells."""
    palette: tuple[float, ...] | None
    """Entries of the LUTs; null if there are more than 256, or if rows are scaled."""
    occupancy: tuple[NonNegativeInt, ...]
    """Number of indices that point to each LUT entry, over all groups; 2**n_bits numbers."""
    unused: NonNegativeInt
    """Number of LUT entries that no index points to."""
    groups_each: PositiveInt
    """Number of groups averaged in each entry of `group_mse`; the last entry may have fewer."""
    group_mse: tuple[NonNegativeFloat, ...]
    """Mean squared error of consecutive groups, in their order; at most 256 numbers."""


class SliceStatistics(TensorStatistics):
    """Statistics of one slice of a tensor: a line of a job's `statistics.jsonl`."""

    first_row: NonNegativeInt = 0
    """First row of the slice along axis 0."""
