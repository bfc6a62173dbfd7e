"""Error feedback against naive oracles: assignment, descent, least squares, and the whole."""

from dataclasses import replace
from itertools import pairwise
from math import prod

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from threadpoolctl import threadpool_info

from palettery.kernels import PaletteSettings, palettize, reconstruct
from palettery.kernels.errors import SecondMomentError
from palettery.kernels.feedback import assignment, problem
from palettery.kernels.feedback import palettize as feedback
from palettery.kernels.feedback.layer_inputs import DAMPING, layer_inputs
from palettery.kernels.feedback.problem import LayerProblem
from palettery.kernels.feedback.refit import refit
from palettery.kernels.palettize import weight_reader
from palettery.kernels.threads import never_cancel, single_blas_thread

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks so small that small cases have several."""
    monkeypatch.setattr(problem, "CHUNK_VECTORS", 5)
    monkeypatch.setattr(assignment, "BLOCK_COLUMNS", 7)


def moments_of(rng, columns, groups=None, samples=None):
    """Second moments of correlated inputs."""
    each = []
    for _ in range(groups or 1):
        inputs = rng.normal(0, 1, (samples or 3 * columns, columns)) * rng.uniform(0.1, 2, columns)
        inputs += rng.normal(0, 1, (len(inputs), 1)) * rng.normal(0, 1, columns)
        each.append(inputs.T @ inputs / len(inputs))
    moments = np.stack(each).astype(np.float32)
    return moments if groups else moments[0]


def output_error(weight, dense, moments):
    """The error of a layer's outputs, row by row."""
    errors = (weight.astype(np.float64) - dense.astype(np.float64)).reshape(len(weight), -1)
    each = moments.astype(np.float64).reshape(-1, *moments.shape[-2:])
    of_row = np.repeat(each, len(errors) // len(each), axis=0)
    return sum(error @ own @ error for error, own in zip(errors, of_row, strict=True))


def damped(moments):
    """Second moments as they are minimised."""
    mean = np.trace(moments.astype(np.float64)) / len(moments)
    return moments.astype(np.float64) + DAMPING * mean * np.eye(len(moments))


def problem_of(weight, settings, moments):
    reader, _ = weight_reader(weight, settings, None, None, never_cancel)
    return LayerProblem(reader, layer_inputs(moments, weight.shape), settings.cluster_dim)


def start_of(weight, settings):
    """A layer's problem, tables and labels by K-means, on which parts are tested."""
    start = palettize(weight, settings)
    tables = start.lut.astype(np.float64).reshape(-1, *start.lut.shape[-2:])
    return start, tables


def dense_of(layer, labels, tables):
    """Reconstruct labels, column by column."""
    dense = np.zeros((layer.reader.weight.shape[0], len(layer.inputs.order)))
    for chunk, own in zip(layer.chunks, labels, strict=True):
        runs = np.repeat(chunk.palettes, np.diff(chunk.starts))
        for place, column in enumerate(layer.inputs.order):
            entries = tables[runs + layer.column_palettes[place], own[place]]
            dense[chunk.rows, column] = entries.reshape(-1)
    return dense


@pytest.mark.parametrize("settings", [PaletteSettings(2), PaletteSettings(2, group_size=4)])
def test_feedback_moves_what_is_left_to_its_optimum(settings):
    """Each weight goes to the entry nearest to its best value, given the errors so far."""
    rng = np.random.default_rng(0)
    weight, moments = rng.normal(0, 1, (12, 20)).astype(np.float32), moments_of(rng, 20)
    layer = problem_of(weight, settings, moments)
    _, tables = start_of(weight, settings)
    labels = [assignment.assign_with_feedback(layer, chunk, tables) for chunk in layer.chunks]
    dense = dense_of(layer, labels, tables)
    minimised = damped(moments)
    order = layer.inputs.order
    assert_array_equal(order, np.argsort(-np.diag(moments), kind="stable"))
    for row, values in enumerate(weight.astype(np.float64)):
        table = tables[row // 4 if settings.group_size else 0, :, 0]
        for place, column in enumerate(order):
            fixed, left = order[:place], order[place:]
            errors = values[fixed] - dense[row, fixed]
            best = -np.linalg.solve(
                minimised[np.ix_(left, left)], minimised[np.ix_(left, fixed)] @ errors
            )
            target = values[column] - best[0]
            nearest = table[np.argmin(np.abs(table - target))]
            assert dense[row, column] == nearest


def test_descent_takes_the_best_entry_of_each_weight_in_turn():
    rng = np.random.default_rng(1)
    weight, moments = rng.normal(0, 1, (9, 17)).astype(np.float32), moments_of(rng, 17)
    settings = PaletteSettings(2)
    layer = problem_of(weight, settings, moments)
    start, tables = start_of(weight, settings)
    labels = [
        assignment.assign_by_descent(layer, chunk, tables, own)
        for chunk, own in zip(layer.chunks, layer.labels(start.indices), strict=True)
    ]
    dense = reconstruct(start).astype(np.float64)
    for row in range(len(weight)):
        for column in layer.inputs.order:
            trials = np.repeat(dense[row : row + 1], 4, axis=0)
            trials[:, column] = tables[0, :, 0]
            errors = [
                output_error(weight[row : row + 1], trial[None], damped(moments))
                for trial in trials
            ]
            dense[row] = trials[int(np.argmin(errors))]
    assert_array_equal(dense_of(layer, labels, tables), dense)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "settings",
    [
        PaletteSettings(2),
        PaletteSettings(2, group_size=4),
        PaletteSettings(2, group_size=30, axis=1),
        PaletteSettings(2, cluster_dim=2),
        PaletteSettings(3, group_size=6, per_channel_scale=True),
        PaletteSettings(2, cluster_dim=3, per_channel_scale=True),
    ],
)
def test_least_squares_palettes_cannot_be_improved(settings):
    """The gradient of the error with respect to each entry is zero; one tile has 64 columns."""
    rng = np.random.default_rng(2)
    weight = rng.normal(0, 1, (12, 90)).astype(np.float64)
    moments = moments_of(rng, 90)
    layer = problem_of(weight, settings, moments)
    start, _ = start_of(weight, settings)
    tables = start.lut.reshape(-1, *start.lut.shape[-2:])
    labels = layer.labels(start.indices)
    for _ in range(60 if settings.axis else 1):  # palettes of columns are fitted in turns
        tables, error = refit(layer, labels, tables, lambda lut: lut, 1, never_cancel)
    scale = np.ones((12, 1)) if start.per_channel_scale is None else start.per_channel_scale
    dense = dense_of(layer, labels, tables) * scale
    fitted = output_error(weight, dense, damped(moments))
    assert fitted < output_error(weight, reconstruct(start), damped(moments))
    largest = 1 if start.per_channel_scale is None else start.per_channel_scale.max()
    assert_allclose(error * layer.inputs.unit * largest**2, fitted, rtol=1e-6)
    slopes = (weight - dense) @ damped(moments) * scale
    for palette, entry, lane in np.ndindex(tables.shape):
        one = np.zeros_like(tables)
        one[palette, entry, lane] = 1
        slope = (slopes * dense_of(layer, labels, one)).sum()
        assert abs(slope) < 1e-5 * np.abs(slopes).sum()


def draw(rng):
    """A weight, settings, second moments and sensitivities or None, all at random."""
    rows, columns = 12 * int(rng.integers(1, 4)), 6 * int(rng.integers(1, 5))
    shape = (rows, columns, *[(), (), (2, 2), (3,)][rng.integers(4)])
    weight = rng.normal(0, 10.0 ** rng.uniform(-3, 1), shape)
    if rng.random() < 0.2:
        weight[rng.random(shape) < 0.4] = 0
    groups = int(rng.choice([1, 1, 2, 6]))
    dtype = DTYPES[rng.integers(4)]
    settings = PaletteSettings(
        n_bits=int(rng.choice([1, 2, 3, 4])),
        axis=int(rng.integers(2)),
        group_size=[None, 2, 6][rng.integers(3)],
        cluster_dim=int(rng.choice([1, 1, 2])),
        per_channel_scale=bool(rng.random() < 0.3),
        lut_dtype=[None, None, "int8", "float8_e4m3fn"][rng.integers(4)],
    )
    if settings.axis == 0 and rng.random() < 0.3:
        settings = replace(settings, sparsity_threshold=0.1)
    samples = int(rng.choice([3, 100]))  # fewer samples than columns: a singular matrix
    moments = moments_of(rng, prod(shape[1:]), groups if groups > 1 else None, samples)
    if rng.random() < 0.2:
        moments[..., 0, :] = moments[..., :, 0] = 0  # an input that is always zero
    sensitivity = rng.random(shape).astype(np.float32) if rng.random() < 0.3 else None
    return weight.astype(dtype), settings, moments, sensitivity


@pytest.mark.parametrize("seed", range(24))
def test_any_case_is_no_worse_than_without_feedback(seed):
    weight, settings, moments, sensitivity = draw(np.random.default_rng(seed))
    palette = palettize(weight, settings, sensitivity, second_moment=moments)
    dense = reconstruct(palette)
    given = sensitivity
    if sensitivity is None:
        own = moments.reshape(-1, *moments.shape[-2:])
        diagonal = np.diagonal(own, axis1=1, axis2=2).reshape(len(own), 1, *weight.shape[1:])
        of_row = np.repeat(diagonal, len(weight) // len(own), axis=0)
        sensitivity = np.broadcast_to(of_row.reshape(-1, *weight.shape[1:]), weight.shape)
    plain = output_error(weight, reconstruct(palettize(weight, settings, sensitivity)), moments)
    measured = output_error(weight, dense, moments)
    assert measured <= plain * (1 + 1e-6)
    output = palette.metrics.output
    if output is None:
        assert "error feedback is not used" in palette.metrics.notes[-1]
        return
    zero = output_error(weight, np.zeros_like(weight), moments)
    assert_allclose(output.sse, measured, rtol=1e-5, atol=1e-9 * zero)
    assert_allclose(output.plain_sse, plain, rtol=1e-5, atol=1e-9 * zero)
    assert_allclose(output.signal, zero, rtol=1e-6)
    assert palette.metrics.occupancy.sum() == palette.indices.size
    if palette.mask is not None:
        assert_array_equal(dense != 0, (weight != 0) & (dense != 0))
    for threads in (1, 3):
        again = palettize(weight, settings, given, threads=threads, second_moment=moments)
        assert_array_equal(again.lut.view(np.uint8), palette.lut.view(np.uint8))
        assert_array_equal(again.indices, palette.indices)


@pytest.mark.parametrize("seed", range(4))
def test_the_error_falls_from_round_to_round(seed):
    rng = np.random.default_rng(seed)
    weight, moments = rng.normal(0, 1, (40, 60)).astype(np.float32), moments_of(rng, 60)
    settings = PaletteSettings(2, group_size=20, axis=seed % 2)
    layer = problem_of(weight, settings, moments)
    start, _ = start_of(weight, settings)
    fits = list(feedback.run_rounds(layer, start, settings, 1, never_cancel))
    errors = [fit.error for fit in fits]
    assert len(errors) > 2
    assert all(later <= error * (1 + 1e-12) for error, later in pairwise(errors))
    dense = dense_of(layer, fits[-1].labels, fits[-1].centroids)
    measured = output_error(weight, dense, damped(moments))
    assert_allclose(errors[-1] * layer.inputs.unit, measured, rtol=1e-6)
    assert measured < 0.7 * output_error(weight, reconstruct(start), damped(moments))


def test_inputs_that_are_all_zero_change_nothing():
    weight = np.random.default_rng(0).normal(0, 1, (8, 6)).astype(np.float32)
    plain = palettize(weight, PaletteSettings(2))
    palette = palettize(weight, PaletteSettings(2), second_moment=np.zeros((6, 6)))
    assert_array_equal(palette.lut, plain.lut)
    assert palette.metrics.output is None


@pytest.mark.parametrize(
    ("moments", "message"),
    [
        (np.eye(5), r"shape \[5, 5\] does not fit a weight of shape \[4, 6\].*expected \[6, 6\]"),
        (np.ones(6), r"shape \[6\] does not fit"),
        (np.ones((3, 6, 6)), "second moments of 3 groups do not fit a weight of 4 rows"),
        (np.full((6, 6), np.nan), "36 of 36 second moments are not finite"),
        (np.eye(6) + np.eye(6, k=1) / 4, "not symmetric.* differ by up to 0.25, the largest"),
        (np.diag([1, 1, 1, 1, 1, -0.25]), "not positive semidefinite.* 0.25 times the largest"),
    ],
)
def test_bad_second_moments_are_refused(moments, message):
    weight = np.random.default_rng(0).normal(0, 1, (4, 6)).astype(np.float32)
    with pytest.raises(SecondMomentError, match=message):
        palettize(weight, PaletteSettings(2), second_moment=moments)


def test_rounding_is_no_error():
    """Sums in float32 of few samples have eigenvalues a little below zero."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(0, 1, (4, 60)).astype(np.float32) + 10
    moments = inputs.T @ inputs
    assert np.linalg.eigvalsh(moments.astype(np.float64))[0] < 0
    weight = rng.normal(0, 1, (8, 60)).astype(np.float32)
    palette = palettize(weight, PaletteSettings(2), second_moment=moments)
    assert palette.metrics.output.sse < 0.2 * palette.metrics.output.plain_sse


def test_matrix_products_use_one_thread_within_the_limit():
    def threads():
        return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}

    before = threads()
    with single_blas_thread():
        with single_blas_thread():
            assert threads() == {1}
        assert threads() == {1}
    assert threads() == before
