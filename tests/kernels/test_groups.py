"""Groups of a tensor, cut by hand."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from palettery.kernels import PaletteSettings
from palettery.kernels.errors import DivisibilityError, WeightError
from palettery.kernels.groups import GroupLayout, check_cluster_dim, group_layout, layout_from_lut

ARRAY = np.arange(24.0).reshape(4, 6)


def test_groups_of_rows_and_of_columns():
    rows, columns = GroupLayout((4, 6), 0, 2), GroupLayout((4, 6), 1, 3)
    assert (rows.groups, rows.elements, rows.height) == (2, 12, 2)
    assert (columns.groups, columns.elements, columns.height) == (2, 12, 4)
    assert_array_equal(rows.take(ARRAY, range(1, 2)), [range(12, 24)])
    expected = [
        [0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20],
        [3, 4, 5, 9, 10, 11, 15, 16, 17, 21, 22, 23],
    ]
    assert_array_equal(columns.take(ARRAY, range(2)), expected)
    assert rows.lut_shape(16, 1) == (2, 1, 16, 1)
    assert columns.lut_shape(16, 1) == (1, 2, 16, 1)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)])
def test_what_is_put_is_what_was_taken(shape, axis):
    array, layout = np.arange(np.prod(shape)).reshape(shape), GroupLayout(shape, axis, 2)
    copy = np.zeros_like(array)
    for groups in layout.batches(2 * layout.elements):
        for rows in layout.rows(layout.elements // 2):
            if len(groups) == 1 or rows == slice(0, layout.height):
                layout.put(copy, groups, layout.take(array, groups, rows).copy(), rows)
            else:
                for group in groups:
                    one = range(group, group + 1)
                    layout.put(copy, one, layout.take(array, one, rows).copy(), rows)
    assert_array_equal(copy, array)


def test_pieces_are_batches_of_small_groups_or_blocks_of_large_ones():
    layout = GroupLayout((6, 4), 0, 2)
    assert layout.pieces(16, 8) == [(range(2), slice(None)), (range(2, 3), slice(None))]
    assert layout.pieces(16, 4) == [
        (range(at, at + 1), slice(row, row + 1)) for at in range(3) for row in range(2)
    ]


def test_vectors_go_along_axis_0():
    vectors = GroupLayout((4, 6), 0, 4).take_vectors(ARRAY, range(1), 2)
    assert vectors.shape == (1, 12, 2)
    assert_array_equal(vectors[0, :3], [[0, 6], [1, 7], [2, 8]])
    assert_array_equal(vectors[0, -1], [17, 23])


def test_settings_define_the_groups_and_so_does_a_stored_lut():
    assert group_layout((4, 6), PaletteSettings(4)) == GroupLayout((4, 6), 0, 4)
    layout = group_layout((4, 6), PaletteSettings(4, axis=1, group_size=2))
    assert layout == GroupLayout((4, 6), 1, 2)
    assert layout_from_lut((4, 6), layout.lut_shape(16, 1)) == layout


@pytest.mark.parametrize(
    ("shape", "settings", "error", "message"),
    [
        ((4,), PaletteSettings(4, axis=1, group_size=1), WeightError, "no axis 1"),
        ((4, 6), PaletteSettings(4, group_size=3), DivisibilityError, "group_size 3 does not"),
    ],
)
def test_groups_that_cannot_be(shape, settings, error, message):
    with pytest.raises(error, match=message):
        group_layout(shape, settings)


def test_vectors_fill_a_group():
    check_cluster_dim(GroupLayout((4, 6), 0, 4), 2)
    with pytest.raises(DivisibilityError, match="cluster_dim 3 does not divide the 4 rows"):
        check_cluster_dim(GroupLayout((4, 6), 0, 4), 3)
