r"""The one optimum among many: the point of the optimal face nearest to a prior.

Every optimum of a convex quadratic on the simplex has the same residual, so the optimal face is
$\{w \ge 0 : M w = M w^*\}$ over the columns whose gradient is minimal. Its nearest point is found
by least-distance programming (Lawson & Hanson 1974, ch. 23), which is again non-negative least
squares; on wide faces by Newton's method on the dual, which needs no basis of the null space.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr
from scipy.optimize import nnls

__all__: list[str] = []

Array = NDArray[np.float64]

# Wider faces go to the dual: least-distance programming needs an (F, F) basis.
_WIDE = 300
# Weights that are zero but for the rounding of the projection.
_ROUNDING = 1e-14


def nearest_on_face(rows: Array, w: Array, prior: Array) -> tuple[Array, bool]:
    """Move `w` within its face to the point nearest to `prior`.

    Args:
        rows: (m, F) quantities `rows @ w` that all optima share, besides the sum of `w`.
        w: (F,) an optimum, restricted to the columns of the face.
        prior: (F,) the point to come near to.

    Returns:
        The weights (F,) and whether they are the only point of the face.
    """
    shared = _row_space(rows)
    if len(shared) == len(w):
        return w, True
    around = w + (prior - w) - shared.T @ (shared @ (prior - w))
    if (around >= -_ROUNDING).all():
        moved = np.maximum(around, 0.0)
    elif len(w) <= _WIDE:
        moved = _least_distance(shared, around)
    else:
        moved = _dual_newton(shared, shared @ w, prior)
    # Zeros set by hand leave an error of their size, which the positive weights take over.
    inside = moved > 0
    error = shared @ (w - moved)
    moved[inside] += np.linalg.lstsq(shared[:, inside], error, rcond=1e-9)[0]
    moved[moved <= _ROUNDING / 10] = 0.0
    moved /= moved.sum()
    return moved, _is_point(shared, moved)


def _row_space(rows: Array) -> Array:
    """Orthonormal (r, F) basis of the quantities that all optima share, the sum among them."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    size = float(np.sqrt(np.square(centred).sum(axis=0).max(initial=0.0)))
    whole = float(np.sqrt(np.square(rows).sum(axis=0).max(initial=0.0)))
    # The sum is one more shared quantity, weighted like the others.
    system = np.vstack([centred, np.full((1, rows.shape[1]), size or 1.0)])
    q, r, _ = qr(system.T, mode="economic", pivoting=True)
    # A common offset hides digits of the differences; what it hides cannot be told from zero.
    eps = float(np.finfo(np.float64).eps)
    tolerance = max(1e-11, 16 * eps * whole / size) if size else 1e-11
    diagonal = np.abs(r.diagonal())
    return np.asarray(q[:, diagonal > tolerance * diagonal[0]].T)


def _least_distance(shared: Array, around: Array) -> Array:
    """Point `>= 0` nearest to `around` along the directions orthogonal to `shared`."""
    full, _ = qr(shared.T, mode="full")
    free = full[:, len(shared) :]
    # min |z| subject to free z >= -around: the dual multipliers u are non-negative least squares.
    # Entries that cannot move may be below zero by rounding, which must not make it infeasible.
    system = np.vstack([free.T, -around - _ROUNDING])
    target = np.zeros(len(system))
    target[-1] = 1.0
    u = nnls(system, target, maxiter=10 * len(around))[0]
    z = system[:-1] @ u / (1.0 - system[-1] @ u)
    moved = around + free @ z
    moved[moved <= 2 * _ROUNDING] = 0.0
    return np.asarray(moved)


def _dual_newton(shared: Array, value: Array, prior: Array) -> Array:
    r"""Point `>= 0` nearest to `prior` with `shared @ w = value`.

    The optimum is $w = \max(p + Q^T \lambda, 0)$; the dual is convex and piecewise quadratic, so
    Newton's method with a line search ends once the support stands still.
    """
    multipliers = np.zeros(len(shared))
    w = np.maximum(prior, 0.0)
    error = shared @ w - value
    for _ in range(200):
        if np.linalg.norm(error) <= 1e-14:
            break
        inside = shared[:, w > 0]
        curvature = inside @ inside.T
        # The shift keeps the step defined where the support does not span every quantity.
        shift = 1e-10 * max(float(np.linalg.norm(error)), 1e-4)
        curvature[np.diag_indices_from(curvature)] += shift
        step = -np.linalg.solve(curvature, error)
        value_here = 0.5 * float(w @ w) - float(value @ multipliers)
        length, slope = 1.0, float(error @ step)
        while length > 1e-12:
            trial = multipliers + length * step
            w = np.maximum(prior + shared.T @ trial, 0.0)
            reached = 0.5 * float(w @ w) - float(value @ trial)
            if reached <= value_here + 1e-4 * length * slope + 1e-16:
                break
            length /= 2
        multipliers = trial
        error = shared @ w - value
    return w


def _is_point(shared: Array, w: Array) -> bool:
    r"""Whether no direction that keeps `shared @ w` keeps $w \ge 0$ too."""
    inside, outside = shared[:, w > 0], shared[:, w <= 0]
    if inside.shape[1] > len(shared) or np.linalg.matrix_rank(inside, tol=1e-9) < inside.shape[1]:
        return False
    if outside.shape[1] == 0:
        return True
    # A direction v with v >= 0 and sum 1 on the zeros, any sign on the support.
    q, _ = np.linalg.qr(inside)
    system = np.vstack([outside - q @ (q.T @ outside), np.ones(outside.shape[1])])
    target = np.zeros(len(system))
    target[-1] = 1.0
    return bool(nnls(system, target, maxiter=10 * outside.shape[1])[1] > 1e-7)
