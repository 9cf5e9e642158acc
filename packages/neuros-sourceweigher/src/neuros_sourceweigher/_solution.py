"""From a matrix of columns to the one certified optimum: scaling, route, face, certificate."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuros_sourceweigher._active_set import ActiveSet, nearest_point
from neuros_sourceweigher._gradient import nearest_point_large
from neuros_sourceweigher._optimal_face import nearest_on_face
from neuros_sourceweigher._projection import project_array

__all__: list[str] = []

Array = NDArray[np.float64]

# Relative slack that rounding alone can cause.
NOISE = 64 * float(np.finfo(np.float64).eps)
# Relative slack up to which a column is on the optimal face; moving there costs less than `tol`.
FACE = 1e-12
# Above this many entries, and with few rows per column, gradient steps find the columns first.
_LARGE = 400_000


class SimplexSolution(NamedTuple):
    """Weights on the simplex and the certificate that they are optimal.

    `gap` bounds `objective` minus the optimum; `lower_bound` is `objective - gap`; `iterations`
    counts the steps after the non-negative least squares start; `solver` names the route.
    """

    weights: Array
    objective: float
    gap: float
    lower_bound: float
    unique: bool
    iterations: int
    solver: str


class Minimum(NamedTuple):
    """A minimum of the norm of `B w` before it is certified."""

    weights: Array
    unique: bool
    iterations: int
    solver: str


def minimise(B: Array, prior: Array, max_iter: int | None) -> Minimum:
    """Minimise the norm of `B w` over the simplex, among equals nearest to `prior`.

    Args:
        B: (d, K) columns, which are scaled in place.
        prior: (K,) the point that decides between several optima.
        max_iter: Largest number of refinement steps; 100 + 10 K when None.
    """
    K = B.shape[1]
    limit = 100 + 10 * K if max_iter is None else max_iter
    if K == 1:
        return Minimum(np.ones(1), unique=True, iterations=0, solver="closed-form")
    if (B[:, 0] == B[:, 1]).all() and (B[:, :1] == B).all():
        w = np.asarray(project_array(prior, 1.0, None))
        return Minimum(w, unique=False, iterations=0, solver="closed-form")
    B /= np.sqrt(np.einsum("ij,ij->j", B, B).max())
    large = B.size > _LARGE and len(B) < 2 * K
    found = nearest_point_large(B, NOISE, limit) if large else nearest_point(B, NOISE, limit)
    w, unique = settle(found, B, prior)
    return Minimum(w, unique, found.iterations, "gradient" if large else "active-set")


def settle(found: ActiveSet, rows: Array, prior: Array) -> tuple[Array, bool]:
    """Move to the optimum nearest to `prior`; `rows @ w` is what all optima share."""
    w = found.weights
    face = np.flatnonzero((found.slack <= FACE) | (w > 0))
    if found.independent and len(face) == np.count_nonzero(w):
        return w, True
    settled = np.zeros(len(w))
    settled[face], unique = nearest_on_face(rows[:, face], w[face], prior[face])
    # Columns that differ by more than twelve orders of magnitude leave no digits for the move:
    # then the certified point stays.
    moved = np.abs(rows @ (settled - w)).max(initial=0.0)
    kept = moved <= 1e-13 * np.abs(rows).max(initial=0.0)
    return (settled, unique) if kept else (w, False)


def certify(
    found: Minimum, objective: float, gradient: Array, limit: float, unit: float
) -> SimplexSolution:
    """State the gap in the caller's unit, or refuse when it is above `limit`."""
    w = found.weights
    gap = max(float(gradient @ w - gradient.min()), 0.0)
    if not gap <= limit:
        raise RuntimeError(
            f"the simplex solver reached a gap of {gap * unit:.3g} in {found.iterations} "
            f"iterations, above tol's {limit * unit:.3g}; raise max_iter or tol"
        )
    return SimplexSolution(
        w,
        objective * unit,
        gap * unit,
        (objective - gap) * unit,
        found.unique,
        found.iterations,
        found.solver,
    )
