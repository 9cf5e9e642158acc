r"""Euclidean projection onto the probability simplex and certified least squares over it."""

import math
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuros_core.errors import check_finite, check_ndim
from neuros_sourceweigher._batched import settle_batch
from neuros_sourceweigher._gram import minimise_gram
from neuros_sourceweigher._projection import (
    check_radius,
    is_tensor,
    project_array,
    project_tensor,
)
from neuros_sourceweigher._solution import SimplexSolution, certify, minimise

__all__ = [
    "SimplexBatch",
    "SimplexSolution",
    "project_simplex",
    "solve_simplex_ls",
    "solve_simplex_ls_batched",
    "solve_simplex_qp",
]

Array = NDArray[np.float64]
T = TypeVar("T")


def project_simplex(v: T, *, radius: float = 1.0, out: T | None = None) -> T:
    r"""Project onto the simplex: $\arg\min_w \|w - v\|^2$ with $w \ge 0$, $\sum_k w_k = r$.

    A torch tensor comes back as a tensor of the same device, with the exact Jacobian
    $I_S - 1_S 1_S^T / |S|$ on the support $S$; anything else is read as a NumPy array. Integers
    are computed in float64, half precision in float32. Equal entries stay equal bit for bit. With
    the extra `neuros-sourceweigher[fast]`, arrays of half a million entries and more are projected
    by compiled code; the first such call of a process compiles it.

    Args:
        v: (..., K) points.
        radius: The sum of each projected row, at most 1e300.
        out: Where to write the result: the shape of `v` and the dtype of the result.

    Returns:
        (..., K) in the dtype of `v` (float64 for integers).

    Raises:
        ValueError: For NaN or infinity, K = 0, a radius that is not positive, an unfit `out`.
        TypeError: For complex or non-numeric `v`.

    Examples:
        >>> project_simplex(np.array([0.5, 1.0, -2.0]))
        array([0.25, 0.75, 0.  ])

    References:
        Wang & Carreira-Perpinan 2013, arXiv:1309.1541. Michelot 1986, Journal of Optimization
        Theory and Applications, doi:10.1007/BF00938486.
    """
    check_radius(radius)
    project: Any = project_tensor if is_tensor(v) else project_array
    projected: T = project(v, radius, out)
    return projected


def solve_simplex_ls(
    A: ArrayLike,
    c: ArrayLike,
    *,
    ridge: float = 0.0,
    prior: ArrayLike | None = None,
    tol: float = 1e-12,
    max_iter: int | None = None,
) -> SimplexSolution:
    r"""Minimise $\frac12\|A w - c\|^2 + \frac{\rho}{2}\|w - w_0\|^2$ over the simplex.

    The gap $\langle\nabla f, w\rangle - \min_k \nabla_k f \ge f(w) - f^*$ certifies the result.
    When several weights are optimal the answer is the one nearest to the prior, so duplicated
    columns share their weight and the order of the columns does not matter.

    Args:
        A: (d, K) one column per source.
        c: (d,) the target.
        ridge: $\rho \ge 0$.
        prior: (K,) $w_0$; uniform when None.
        tol: Largest gap, relative to $\max(\frac12\|c\|^2, \frac12\max_k\|a_k\|^2)$.
        max_iter: Largest number of refinement steps; 100 + 10 K when None.

    Returns:
        Weights (K,), objective, gap, `lower_bound = objective - gap`, whether the optimum is
        unique, the number of refinement steps and the name of the route.

    Raises:
        ValueError: For unfit shapes, NaN or infinity, a negative ridge, entries above 1e153.
        RuntimeError: When the gap is still above `tol`; the message states the gap.

    Examples:
        >>> solve_simplex_ls([[1.0, 0.0], [0.0, 1.0]], [0.5, 1.0]).weights
        array([0.25, 0.75])
        >>> solution = solve_simplex_ls([[0.0, 1.0, 3.0]], [0.25])
        >>> solution.unique, bool(solution.gap < 1e-12)
        (False, True)

    References:
        Lawson & Hanson 1974, Solving Least Squares Problems, doi:10.1137/1.9781611971217, ch. 23.
        Jaggi 2013, Revisiting Frank-Wolfe, PMLR 28 (the gap).
    """
    (A, in_A), (c, in_c) = _read("A", A, 2), _read("c", c, 1)
    if len(c) != len(A):
        raise ValueError(f"c needs one entry per row of A = {len(A)}, got {len(c)}")
    K = A.shape[1]
    near = _read_prior(prior, K)
    _check_options(K, ridge, tol)
    if ridge > 0:
        root = np.sqrt(ridge)
        A = np.vstack([A, root * np.eye(K)])
        c = np.concatenate([c, root * near])
        in_c = max(in_c, root, root * float(np.abs(near).max()))
    scale = _power_of_two(max(in_A, in_c))
    if scale != 1.0:
        A, c = A / scale, c / scale
    found = minimise(A - c[:, None], near, max_iter)
    residual = A @ found.weights - c
    reference = 0.5 * max(float(c @ c), float(np.einsum("ij,ij->j", A, A).max()))
    objective = 0.5 * float(residual @ residual)
    return certify(found, objective, A.T @ residual, tol * reference, scale * scale)


class SimplexBatch(NamedTuple):
    """Weights (N, K) of many problems, each with its objective, gap and uniqueness (N,)."""

    weights: Array
    objective: Array
    gap: Array
    lower_bound: Array
    unique: NDArray[np.bool_]


def solve_simplex_ls_batched(
    A: ArrayLike,
    c: ArrayLike,
    *,
    ridge: float = 0.0,
    prior: ArrayLike | None = None,
    tol: float = 1e-12,
) -> SimplexBatch:
    r"""Solve N problems of `solve_simplex_ls` of the same shape together.

    Well conditioned problems are settled all at once; the others (ties, dependent columns) go
    through `solve_simplex_ls` one by one. Every gap is certified.

    Args:
        A: (N, d, K) one column per source.
        c: (N, d) the targets.
        ridge: As in `solve_simplex_ls`, the same for all.
        prior: (K,) as in `solve_simplex_ls`, the same for all.
        tol: As in `solve_simplex_ls`.

    Returns:
        Weights (N, K) with objective, gap, lower bound and uniqueness (N,).

    Raises:
        ValueError: As `solve_simplex_ls`.
        RuntimeError: When a gap is above `tol`.

    Examples:
        >>> solve_simplex_ls_batched([[[0.0, 1.0]], [[0.0, 4.0]]], [[0.5], [1.0]]).weights
        array([[0.5 , 0.5 ],
               [0.75, 0.25]])
    """
    A, c = _read("A", A, 3)[0], _read("c", c, 2)[0]
    if c.shape != A.shape[:2]:
        raise ValueError(f"c needs shape (N, d) = {A.shape[:2]} like A, got {c.shape}")
    N, _, K = A.shape
    near = _read_prior(prior, K)
    _check_options(K, ridge, tol)
    full, target = A, c
    if ridge > 0:
        root = np.sqrt(ridge)
        full = np.concatenate([A, np.broadcast_to(root * np.eye(K), (N, K, K))], axis=1)
        target = np.concatenate([c, np.broadcast_to(root * near, (N, K))], axis=1)
    largest = np.maximum(
        np.abs(full).max(axis=(1, 2), initial=0.0), np.abs(target).max(axis=1, initial=0.0)
    )
    scale = np.where(largest > 0, np.ldexp(1.0, np.frexp(largest)[1]), 1.0)
    full, target = full / scale[:, None, None], target / scale[:, None]
    B = full - target[:, :, None]
    norm = np.sqrt(np.square(B).sum(axis=1).max(axis=1))
    weights, settled = settle_batch(B / np.where(norm > 0, norm, 1.0)[:, None, None])
    residual = np.matmul(B, weights[:, :, None])
    gradient = np.matmul(full.transpose(0, 2, 1), residual)[:, :, 0]
    objective = 0.5 * np.square(residual[:, :, 0]).sum(axis=1)
    gap = np.maximum((gradient * weights).sum(axis=1) - gradient.min(axis=1), 0.0)
    reference = 0.5 * np.maximum(
        np.square(target).sum(axis=1), np.square(full).sum(axis=1).max(axis=1)
    )
    objective, gap = objective * scale * scale, gap * scale * scale
    unique = np.ones(N, dtype=bool)
    for i in np.flatnonzero(~settled | ~(gap <= tol * reference * scale * scale)):
        single = solve_simplex_ls(A[i], c[i], ridge=ridge, prior=near, tol=tol)
        weights[i], unique[i] = single.weights, single.unique
        objective[i], gap[i] = single.objective, single.gap
    return SimplexBatch(weights, objective, gap, objective - gap, unique)


def solve_simplex_qp(
    G: ArrayLike,
    b: ArrayLike,
    *,
    ridge: float = 0.0,
    prior: ArrayLike | None = None,
    tol: float = 1e-12,
    max_iter: int | None = None,
) -> SimplexSolution:
    r"""Minimise $\frac12 w^T G w - b^T w + \frac{\rho}{2}\|w - w_0\|^2$ over the simplex.

    The problem of `solve_simplex_ls` in Gram form, $G = A^T A$ and $b = A^T c$; but `b` need not
    lie in the range of `G`.

    Args:
        G: (K, K) symmetric, positive semidefinite to $10^{-8}$ of its largest eigenvalue.
        b: (K,) linear term.
        ridge: $\rho \ge 0$.
        prior: (K,) $w_0$; uniform when None.
        tol: Largest gap, relative to $\max(\frac12\max_k G_{kk}, \max_k |b_k|)$.
        max_iter: Largest number of refinement steps per solve; 100 + 10 K when None.

    Returns:
        As `solve_simplex_ls`.

    Raises:
        ValueError: For unfit shapes, NaN or infinity, a matrix that is not symmetric positive
            semidefinite, a negative ridge.
        RuntimeError: When the gap is still above `tol`; the message states the gap.

    Examples:
        >>> solve_simplex_qp([[2.0, 0.0], [0.0, 1.0]], [0.0, 0.0]).weights.round(3)
        array([0.333, 0.667])
    """
    G, b = _read("G", G, 2)[0], _read("b", b, 1)[0]
    K = len(b)
    if G.shape != (K, K):
        raise ValueError(f"G needs shape {(K, K)} for b of length {K}, got {G.shape}")
    near = _read_prior(prior, K)
    _check_options(K, ridge, tol)
    skew = float(np.abs(G / 2 - G.T / 2).max())
    if skew > 1e-8 * float(np.abs(G).max()):
        raise ValueError(f"G needs a symmetric matrix, got entries that differ by {2 * skew:.3g}")
    G = (G / 2 + G.T / 2) + ridge * np.eye(K)
    b = b + ridge * near
    scale = _power_of_two(max(float(np.abs(G).max()), float(np.abs(b).max())))
    G, b = G / scale, b / scale
    found = minimise_gram(G, b, near, max_iter)
    w = found.weights
    constant = 0.5 * (ridge / scale) * float(near @ near)
    objective = 0.5 * float(w @ (G @ w)) - float(b @ w) + constant
    reference = max(0.5 * float(G.diagonal().max()), float(np.abs(b).max()))
    return certify(found, objective, G @ w - b, tol * reference, scale)


def _read(name: str, x: ArrayLike, ndim: int) -> tuple[Array, float]:
    """Return a finite float64 array of `ndim` axes and its largest absolute entry."""
    given = np.asarray(x)
    if given.dtype.kind not in "iuf" and given.size:
        raise TypeError(f"{name} needs real numbers, got dtype {given.dtype}")
    check_ndim(name, given, ndim)
    given = given.astype(np.float64, copy=False)
    # Minimum and maximum propagate NaN and need no copy.
    largest = max(float(given.max()), -float(given.min())) if given.size else 0.0
    # The objective holds squares: at 1e154 they would overflow.
    if not largest <= 1e153:
        check_finite(name, given)
        raise ValueError(f"{name} needs entries up to 1e153, got {largest:.3g}; rescale")
    return given, largest


def _read_prior(prior: ArrayLike | None, K: int) -> Array:
    if prior is None:
        return np.full(K, 1.0 / max(K, 1))
    near = _read("prior", prior, 1)[0]
    if len(near) != K:
        raise ValueError(f"prior needs one entry per column = {K}, got {len(near)}")
    return near


def _check_options(K: int, ridge: float, tol: float) -> None:
    if K == 0:
        raise ValueError("the simplex needs at least one column, got none")
    if not 0 <= ridge < np.inf:
        raise ValueError(f"ridge needs a finite number >= 0, got {ridge!r}")
    if not tol > 0:
        raise ValueError(f"tol needs a number > 0, got {tol!r}")


def _power_of_two(largest: float) -> float:
    """Return a power of two near `largest`, by which division rounds nothing.

    It is one where squares are far from overflow and underflow, so that most callers pay no copy.
    """
    if 1e-60 < largest < 1e60:
        return 1.0
    return math.ldexp(1.0, math.frexp(largest)[1]) if largest > 0 else 1.0
