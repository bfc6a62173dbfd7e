"""Second moments of a layer's inputs: validation, damping and Cholesky factors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky, eigvalsh
from scipy.linalg.lapack import dtrtri

from palettery.kernels.errors import SecondMomentError
from palettery.kernels.threads import single_blas_thread

DAMPING = 0.01
"""What is added to the diagonal before second moments are factored, relative to its mean."""
_ROUNDING_ULPS = 16
"""Rounding errors that second moments may have, in units in the last place."""


@dataclass(frozen=True)
class LayerInputs:
    """Second moments of a layer's inputs, with the columns in the order of assignment."""

    order: NDArray[np.int64]
    """Columns of the weight by descending second moment, (columns,)."""
    moments: NDArray[np.float64]
    """Damped second moments H / unit + d I, (groups, columns, columns)."""
    damping: NDArray[np.float64]
    """Damping d of each group, (groups,), since few samples leave H nearly singular."""
    feedback: NDArray[np.float64]
    """Factors by which a column's error moves later columns, (groups, columns, columns), upper
    triangular."""
    unit: float
    """Divisor of the second moments, a power of two: the largest mean diagonal becomes about 1."""

    @property
    def groups(self) -> int:
        """Number of groups of the convolution, each with its own inputs; 1 for other layers."""
        return len(self.moments)

    def sensitivity(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the second moment of each weight's input. Shapes: -> shape."""
        diagonals = np.empty((self.groups, len(self.order)), np.float32)
        damped = np.diagonal(self.moments, axis1=1, axis2=2)
        diagonals[:, self.order] = damped - self.damping[:, None]
        rows = np.maximum(diagonals * np.float32(self.unit), 0).reshape(self.groups, 1, *shape[1:])
        broadcast_shape = (self.groups, shape[0] // self.groups, *shape[1:])
        return np.broadcast_to(rows, broadcast_shape).reshape(shape)


def layer_inputs(second_moment: NDArray[Any], shape: tuple[int, ...]) -> LayerInputs | None:
    """Check and factor second moments; return None if all inputs are zero.

    With H = R R^T, R upper triangular, and e the errors of a row, the layer's error is |e R|^2.
    Component j of e R is R_jj e_j + sum of e_i R_ij over i < j. So column j compensates the errors
    of earlier columns if its weight is moved by -sum e_i R_ij / R_jj. In terms of the errors
    relative to the moved weights, the factor is U_ij / U_ii with U = R^-1.

    Shapes: second_moment (columns, columns) or (groups, columns, columns), columns the product of
        all axes of the weight but the first.

    Raises:
        SecondMomentError: see `check_second_moment`.
    Source: Frantar et al. 2022 (GPTQ, arXiv 2210.17323), for any quantizer.
    """
    moments = check_second_moment(second_moment, shape)
    means = np.trace(moments, axis1=1, axis2=2) / moments.shape[-1]
    if not means.max() > 0:
        return None
    unit = 2.0 ** np.floor(np.log2(means.max()))
    order = np.argsort(-np.einsum("gii->i", moments), kind="stable")
    moments = moments[:, order[:, None], order] / unit
    with single_blas_thread():  # so that results do not depend on the number of threads
        damping = np.array([_add_damping(matrix, second_moment.dtype) for matrix in moments])
        feedback = np.stack([_feedback_factor(matrix) for matrix in moments])
    return LayerInputs(order, moments, damping, feedback, unit)


def check_second_moment(second_moment: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return second moments as (groups, columns, columns), exactly symmetric.

    Raises:
        SecondMomentError: a shape that does not fit the weight's, or values that are not finite or
            not symmetric.
    """
    columns = int(np.prod(shape[1:]))
    got = second_moment.shape
    groups = got[0] if len(got) == 3 else 1
    if len(shape) < 2 or got[-2:] != (columns, columns) or len(got) > 3 or len(got) < 2:
        raise SecondMomentError(
            f"a second moment of shape {list(got)} does not fit a weight of shape {list(shape)}; "
            f"expected [{columns}, {columns}], or one of these for each group of a convolution"
        )
    if groups == 0 or shape[0] % groups:
        raise SecondMomentError(
            f"second moments of {groups} groups do not fit a weight of {shape[0]} rows; "
            "expected a divisor of the number of rows"
        )
    moments = second_moment.astype(np.float64).reshape(groups, columns, columns)
    if not np.isfinite(moments).all():
        count = int(moments.size - np.count_nonzero(np.isfinite(moments)))
        raise SecondMomentError(f"{count} of {moments.size} second moments are not finite")
    mirrored = moments.swapaxes(1, 2)
    largest = np.abs(moments).max()
    difference = np.abs(moments - mirrored).max()
    if difference > 1e-4 * largest:
        raise SecondMomentError(
            f"the second moment is not symmetric: entries and their mirror images differ by up to "
            f"{difference:.3g}, the largest entry is {largest:.3g}"
        )
    symmetric: NDArray[np.float64] = (moments + mirrored) / 2
    return symmetric


def _add_damping(moments: NDArray[np.float64], dtype: np.dtype[Any]) -> float:
    """Add the damping to the diagonal, in place, and return it.

    Raises:
        SecondMomentError: see `_check_semidefinite`.
    """
    mean = np.trace(moments) / len(moments)
    if not mean > 0:  # all inputs of this group are zero, but not of another
        moments[:] = np.eye(len(moments))
        return 1.0
    eps = np.finfo(dtype).eps if np.issubdtype(dtype, np.floating) else 0.0
    rounding = max(_ROUNDING_ULPS * float(eps), 1e-12) * mean * len(moments)
    _check_semidefinite(moments, rounding)
    damping = float(max(DAMPING * mean, 2 * rounding))
    moments[np.diag_indices(len(moments))] += damping
    return damping


def _feedback_factor(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return U with rows divided by their diagonal, U^T U the inverse of the damped moments."""
    reversed_factor = cholesky(moments[::-1, ::-1], lower=True, check_finite=False)
    upper, _ = dtrtri(np.asfortranarray(reversed_factor[::-1, ::-1]))
    normalized: NDArray[np.float64] = np.ascontiguousarray(upper / np.diagonal(upper)[:, None])
    return normalized


def _check_semidefinite(moments: NDArray[np.float64], rounding: float) -> None:
    """Check that no eigenvalue is more negative than rounding errors explain.

    Raises:
        SecondMomentError: an eigenvalue is.
    """
    try:
        cholesky(moments + rounding * np.eye(len(moments)), lower=True, check_finite=False)
    except LinAlgError:
        spectrum = eigvalsh(moments)
        raise SecondMomentError(
            "the second moment is not positive semidefinite: its least eigenvalue is "
            f"{-spectrum[0] / spectrum[-1]:.3g} times the largest below zero; sums of x x^T have "
            "none there"
        ) from None
