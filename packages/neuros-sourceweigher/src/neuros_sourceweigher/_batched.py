r"""Many simplex problems of one shape at once, by block pivoting on the Gram matrices.

Non-negative least squares on $[B; 1^T] u = [0; 1]$ has the conditions $u \ge 0$,
$M u - 1 \ge 0$, $u^T (M u - 1) = 0$ with $M = B^T B + 1 1^T$. Block principal pivoting (Kim & Park
2011, doi:10.1137/110821172) exchanges all entries that violate them at once, in all problems
together. What it leaves undecided, or decides without enough digits, is left to the single solver.
"""

import numpy as np
from numpy.typing import NDArray

from neuros_sourceweigher._solution import FACE

__all__: list[str] = []

Array = NDArray[np.float64]

_PIVOTS = 30
# Inverse Gram entries above this leave fewer than half of the digits.
_LARGEST_INVERSE = 1e8


def settle_batch(B: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Minimise the norm of `B[i] @ w` over the simplex where that is well conditioned.

    Args:
        B: (N, d, K) columns, the largest of each problem of norm near one.

    Returns:
        Weights (N, K) and whether each row is settled: the unique optimum to working precision.
    """
    N, K = len(B), B.shape[-1]
    M = B.transpose(0, 2, 1) @ B
    M += 1.0
    support = np.ones((N, K), dtype=bool)
    u = np.zeros((N, K))
    open_ = np.arange(N)
    for _ in range(_PIVOTS):
        part = support[open_]
        trial = _solve_on(M[open_], part, np.ones((len(open_), K, 1)))[:, :, 0]
        u[open_] = trial
        dual = np.matmul(M[open_], trial[:, :, None])[:, :, 0] - 1.0
        wrong = np.where(part, trial <= 0, dual < -FACE)
        going = wrong.any(axis=1)
        support[open_] = part ^ wrong
        open_ = open_[going]
        if not len(open_):
            break
    settled = np.ones(N, dtype=bool)
    settled[open_] = False
    return _refine(B, M, u, support, settled)


def _solve_on(M: Array, support: NDArray[np.bool_], right: Array) -> Array:
    """Solve each system (N, K, K) on its support for right-hand sides (N, K, m); zero elsewhere."""
    pair = support[:, :, None] & support[:, None, :]
    system = np.where(pair, M, 0.0)
    diagonal = np.arange(M.shape[-1])
    # The shift keeps a singular system solvable; `_refine` then finds that it lacks digits.
    system[:, diagonal, diagonal] = np.where(
        support, system[:, diagonal, diagonal] * (1 + 1e-15), 1.0
    )
    return np.asarray(np.linalg.solve(system, np.where(support[:, :, None], right, 0.0)))


def _refine(
    B: Array, M: Array, u: Array, support: NDArray[np.bool_], settled: NDArray[np.bool_]
) -> tuple[Array, NDArray[np.bool_]]:
    """Correct with the residual of `B`, not of its square, and keep what then holds exactly."""

    def residual(u: Array) -> Array:
        fitted = np.matmul(B, u[:, :, None])
        back = np.matmul(B.transpose(0, 2, 1), fitted)[:, :, 0]
        return np.asarray(1.0 - back - u.sum(axis=1, keepdims=True))

    size = np.abs(u).max(axis=1)
    u = u + _solve_on(M, support, residual(u)[:, :, None])[:, :, 0]
    # A probe beside the second correction measures the inverse: a singular system hides its
    # ambiguity from the residual, but not from a right-hand side out of its range.
    probe = np.broadcast_to(np.cos(np.arange(u.shape[1]) ** 2 + 1.0), u.shape)
    step, reach = np.moveaxis(_solve_on(M, support, np.stack([residual(u), probe], axis=2)), 2, 0)
    u = u + step
    last = np.abs(step).max(axis=1)
    regular = np.abs(reach).max(axis=1) <= _LARGEST_INVERSE
    left = -residual(u)
    total = u.sum(axis=1)
    # Off the support the slack must exceed what counts as a tie; on it the weights must be > 0.
    clear = np.where(support, u > 0, left > FACE * total[:, None]).all(axis=1)
    settled = settled & clear & regular & (last <= 1e-13 * size)
    weights = np.where(settled[:, None], np.maximum(u, 0.0), 1.0)
    return weights / weights.sum(axis=1, keepdims=True), settled
