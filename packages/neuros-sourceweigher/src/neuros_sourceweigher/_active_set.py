r"""Point of a polytope nearest to the origin: $\min_w \|B w\|$ on the simplex, exactly.

The start is non-negative least squares on $[B; 1^T] u = [0; 1]$ with $w = u / \sum u$. For
$u = s w$ the best scale is $s = 1 / (1 + \|B w\|^2)$, so the two problems have the same optimum.
The refinement is the active-set method of Lawson & Hanson (1974, ch. 23) with the sum
constraint eliminated by column differences: those keep the digits that a common offset hides.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.optimize import nnls

__all__: list[str] = []

Array = NDArray[np.float64]

# Relative size below which a direction of a least-squares problem counts as absent.
_RANK_TOLERANCE = 1e-12
# Entries of the matrix from which a Gram matrix is cheaper than the longer columns.
_WORTH_REDUCING = 4096


class ActiveSet(NamedTuple):
    """A vertex of the active-set search: weights, residual, gradient and what is known of them."""

    weights: Array  # (K,)
    residual: Array  # (d,), B w
    slack: Array  # (K,), gradient minus its mean under w, in units of what rounds in it
    independent: bool  # the columns of the support are affinely independent
    iterations: int


def nearest_point(B: Array, noise: float, max_iter: int) -> ActiveSet:
    """Minimise the norm of `B w` over the simplex.

    Args:
        B: (d, K) columns, the largest of norm near one.
        noise: Relative slack below minus which a value is more than rounding.
        max_iter: Largest number of columns that may enter after the start.
    """
    return refine(B, _start(B), noise, max_iter)


def refine(B: Array, start: Array, noise: float, max_iter: int) -> ActiveSet:
    """Minimise the norm of `B w` from weights `start` (K,) on the simplex."""
    w, support, independent = _descend(B, start, np.flatnonzero(start))
    lengths = np.sqrt(np.einsum("ij,ij->j", B, B))
    iterations, best = 0, np.inf
    while True:
        residual = B[:, support] @ w[support]
        norm = float(residual @ residual)
        slack = relative_slack(B, lengths, w, residual)
        entering = int(slack.argmin())
        # Without strict descent the entering column only repeats rounding.
        stuck = w[entering] > 0 or not norm < best
        if slack[entering] >= -noise or stuck or iterations == max_iter:
            return ActiveSet(w, residual, slack, independent, iterations)
        best = norm
        iterations += 1
        w, support, independent = _descend(B, w, np.append(support, entering))


def relative_slack(B: Array, lengths: Array, w: Array, residual: Array) -> Array:
    r"""Slack $(b_k - B w)^T B w$ in units of the terms that round in it."""
    norm = float(residual @ residual)
    size = np.sqrt(norm)
    # The residual itself is a sum of terms of the size w_j |b_j|.
    unit = (lengths + size) * (float(lengths @ w) + size)
    slack = B.T @ residual - norm
    return np.asarray(slack / np.maximum(unit, np.finfo(np.float64).tiny))


def _start(B: Array) -> Array:
    K = B.shape[1]
    try:
        u = nnls(*_stacked(B), maxiter=10 * K)[0]
        return np.asarray(u / u.sum())
    except RuntimeError:
        # It cycled; the nearest column is a start from which the refinement does all the work.
        w = np.zeros(K)
        w[np.square(B).sum(axis=0).argmin()] = 1.0
        return w


def _stacked(B: Array) -> tuple[Array, Array]:
    r"""Matrix and target of the least-squares start, reduced to K rows where that is cheaper.

    $\|B u\|^2 + (1^T u - 1)^2$ is $\|R u - R^{-T} 1\|^2$ up to a constant, with
    $R^T R = B^T B + 1 1^T$. The start only chooses the support, so half of the digits will do.
    """
    d, K = B.shape
    if d > 2 * K and B.size > _WORTH_REDUCING:
        R, failed = lapack.dpotrf(B.T @ B + 1.0)
        if not failed:
            return R, lapack.dtrtrs(R, np.ones(K), trans=1)[0]
    system = np.empty((d + 1, K))
    system[:d] = B
    system[d] = 1.0
    target = np.zeros(d + 1)
    target[d] = 1.0
    return system, target


def _descend(B: Array, w: Array, support: NDArray[np.intp]) -> tuple[Array, NDArray[np.intp], bool]:
    """Minimise over the affine hull of the support, dropping columns that would turn negative."""
    while True:
        columns = B[:, support]
        here = w[support]
        goal, independent = _affine_minimum(columns, int(here.argmax()))
        falling = goal <= 0
        w = np.zeros(B.shape[1])
        if not falling.any():
            w[support] = goal
            return w, support, independent
        step = here[falling] / np.maximum(here[falling] - goal[falling], np.finfo(float).tiny)
        moved = np.maximum(here + step.min() * (goal - here), 0.0)
        blocking = np.flatnonzero(falling)[step <= step.min()]
        moved[blocking] = 0.0
        w[support] = moved / moved.sum()
        support = support[moved > 0]


def _affine_minimum(columns: Array, pivot: int) -> tuple[Array, bool]:
    """Weights of sum one, of any sign, that minimise the norm of `columns @ weights`."""
    size = columns.shape[1]
    if size == 1:
        return np.ones(1), True
    origin = columns[:, pivot]
    rest = np.empty((len(columns), size - 1), order="F")
    np.subtract(columns[:, :pivot], origin[:, None], out=rest[:, :pivot])
    np.subtract(columns[:, pivot + 1 :], origin[:, None], out=rest[:, pivot:])
    y, independent = _least_squares(rest, -origin)
    z = np.empty(size)
    z[:pivot], z[pivot + 1 :], z[pivot] = y[:pivot], y[pivot:], 1.0 - y.sum()
    return z, independent


def _least_squares(D: Array, e: Array) -> tuple[Array, bool]:
    rows, size = D.shape
    if size <= rows:
        qr, x, info = lapack.dgels(D, e)
        # Beside the length of its own column: the scale of a column says nothing on dependence.
        R = np.triu(qr[:size])
        lengths = np.sqrt(np.einsum("ij,ij->j", R, R))
        if info == 0 and (np.abs(R.diagonal()) > _RANK_TOLERANCE * lengths).all():
            return np.asarray(x[:size]), True
    return np.asarray(np.linalg.lstsq(D, e, rcond=_RANK_TOLERANCE)[0]), False
