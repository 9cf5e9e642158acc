r"""Nearest point of a polytope of very many columns: gradient steps find the columns that matter.

Accelerated projected gradient with adaptive restart (O'Donoghue & Candes 2015,
doi:10.1007/s10208-013-9150-3) orders the columns; the exact active set then runs on the promising
ones and takes in what still violates optimality, until no column does.
"""

import numpy as np
from numpy.typing import NDArray

from neuros_sourceweigher._active_set import ActiveSet, nearest_point, relative_slack
from neuros_sourceweigher._projection import project_array

__all__: list[str] = []

Array = NDArray[np.float64]

_GRADIENT_STEPS = 40
_POWER_STEPS = 8


def nearest_point_large(B: Array, noise: float, max_iter: int) -> ActiveSet:
    """Minimise the norm of `B w` over the simplex; arguments as `nearest_point`."""
    d, K = B.shape
    w = _accelerated(B)
    slack = B.T @ (B @ w)
    lengths = np.sqrt(np.einsum("ij,ij->j", B, B))
    width = min(K, max(64, d // 4))
    chosen = np.union1d(np.flatnonzero(w)[np.argsort(-w[w > 0])[: 2 * d]], _lowest(slack, width))
    best = np.inf
    iterations = _GRADIENT_STEPS
    while True:
        part = nearest_point(np.asfortranarray(B[:, chosen]), noise, max_iter)
        iterations += 1 + part.iterations
        norm = float(part.residual @ part.residual)
        w = np.zeros(K)
        w[chosen] = part.weights
        slack = relative_slack(B, lengths, w, part.residual)
        if slack.min() >= -noise or not norm < best or iterations > max_iter:
            return ActiveSet(w, part.residual, slack, part.independent, iterations)
        best = norm
        violating = _lowest(slack, width)
        chosen = np.union1d(np.flatnonzero(w), violating[slack[violating] < 0])


def _lowest(x: Array, count: int) -> NDArray[np.intp]:
    return np.argpartition(x, count - 1)[:count]


def _accelerated(B: Array) -> Array:
    """Weights after a fixed number of accelerated projected gradient steps."""
    K = B.shape[1]
    w = np.full(K, 1.0 / K)
    # The steps only choose columns, so a curvature that is a few percent low does no harm.
    v = np.square(B).sum(axis=0)
    curvature = 0.0
    for _ in range(_POWER_STEPS):
        v = B.T @ (B @ v)
        curvature = float(np.linalg.norm(v))
        v /= curvature
    y, momentum = w, 1.0
    for _ in range(_GRADIENT_STEPS):
        gradient = B.T @ (B @ y)
        new = np.asarray(project_array(y - gradient / (1.1 * curvature), 1.0, None))
        move = new - w
        if gradient @ move > 0:
            momentum = 1.0
        following = (1.0 + np.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        y = new + ((momentum - 1.0) / following) * move
        w, momentum = new, following
    return w
