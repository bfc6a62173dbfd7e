"""What palettizing did inside a tensor, in a few hundred numbers."""

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from palettery.schemas.base import Schema


class TensorStatistics(Schema):
    """A palettized tensor's weights, its palette and its error, each as far as a picture shows it.

    Cell `i` of a histogram counts values from `(first_cell + i) * 2**cell_exponent` up to where the
    next one begins.
    """

    name: str
    """Of the tensor."""
    sampled: NonNegativeInt
    """Weights that the histograms count, evenly spread over the tensor; at most some 32,000."""
    cell_exponent: int
    """Cells are 2**cell_exponent wide, and one begins at zero."""
    first_cell: int
    """Number of the first cell, counted from the one that begins at zero."""
    weights: tuple[NonNegativeInt, ...]
    """Histogram of the weights; at most 128 cells."""
    reconstructed: tuple[NonNegativeInt, ...]
    """Histogram of what the artifact has in place of those weights; the same cells."""
    palette: tuple[float, ...] | None
    """Entries of its LUTs; null where there are more than 256, or rows have scales of their own."""
    occupancy: tuple[NonNegativeInt, ...]
    """Indices that point at each entry of a LUT, over all groups; 2**n_bits numbers."""
    unused: NonNegativeInt
    """Entries of all its LUTs that no index points at."""
    groups_each: PositiveInt
    """Groups that one number of `group_mse` stands for; the last may stand for fewer."""
    group_mse: tuple[NonNegativeFloat, ...]
    """Mean squared error of consecutive groups, in their order; at most 256 numbers."""


class SliceStatistics(TensorStatistics):
    """The same of one slice of a tensor: a line of a job's `statistics.jsonl`."""

    first_row: NonNegativeInt = 0
    """Where the slice begins along axis 0."""
