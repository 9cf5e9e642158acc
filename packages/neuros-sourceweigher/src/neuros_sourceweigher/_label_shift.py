r"""Shares of classes in an unlabelled sample, from the outputs of a classifier.

The classes are the sources. A classifier trained at shares q gives $p(k \mid x)$; at other shares
$\pi$ the density of x is proportional to $\sum_k \pi_k\, p(k \mid x) / q_k$.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuros_sourceweigher.simplex import solve_simplex_ls, solve_simplex_qp

__all__: list[str] = []

Array = NDArray[np.float64]

_EM_STEPS = 20
_NEWTON_STEPS = 100
# Gap of the mean log-likelihood: far below what any sample can resolve.
_GAP = 1e-12
# Share of the bound on the confusion matrix that is taken, and the decades of its ridge.
_LOOSE = 0.01
_RIDGES = (-8.0, 8.0)


class Shares(NamedTuple):
    """Estimated shares (K,), the minimised function and its certified gap."""

    weights: Array
    objective: float
    gap: float


def maximise_likelihood(ratios: Array) -> Shares:
    r"""Maximise $\frac1n \sum_i \log \sum_k \pi_k r_{ik}$ over the simplex.

    Expectation maximisation (Saerens 2002) climbs first; Newton steps on the simplex finish. Both
    only ever raise the likelihood, up to rounding. It is concave, and $\max_k g_k - 1$ with its
    gradient g bounds the distance from the optimum.

    Args:
        ratios: (n, K) densities of the sources at each sample, up to a factor per sample.
    """
    n, K = ratios.shape
    pi = np.full(K, 1.0 / K)
    for _ in range(_EM_STEPS):
        pi = em_step(ratios, pi)
    value = likelihood(ratios, pi)
    gap = np.inf
    for _ in range(_NEWTON_STEPS):
        scaled = ratios / (ratios @ pi)[:, None]
        gradient = scaled.mean(axis=0)
        gap = max(float(gradient.max()) - 1.0, 0.0)
        if gap <= _GAP:
            break
        new, value, moved = _newton_step(ratios, scaled.T @ scaled / n, gradient, pi, value)
        if not moved:
            break
        pi = new
    return Shares(pi, -value, gap)


def em_step(ratios: Array, pi: Array) -> Array:
    """One step of expectation maximisation from shares (K,)."""
    new = pi * (ratios / (ratios @ pi)[:, None]).mean(axis=0)
    return np.asarray(new / new.sum())


def likelihood(ratios: Array, pi: Array) -> float:
    """Mean log-likelihood of shares (K,), up to a constant."""
    return float(np.log(ratios @ pi).mean())


def _newton_step(
    ratios: Array, H: Array, gradient: Array, pi: Array, value: float
) -> tuple[Array, float, bool]:
    """Go to the optimum of the quadratic model, or as far towards it as the likelihood rises."""
    goal = solve_simplex_qp(H, gradient + H @ pi, prior=pi).weights
    length = 1.0
    while length > 1e-6:
        trial = (1 - length) * pi + length * goal
        with np.errstate(divide="ignore"):
            reached = likelihood(ratios, trial)
        if reached > value:
            return trial, reached, True
        length /= 2
    # The likelihood is flat to the last bit here, but the gradient still sees the optimum.
    return goal, value, _gap(ratios, goal) < _gap(ratios, pi) / 2


def _gap(ratios: Array, pi: Array) -> float:
    mixed = ratios @ pi
    return float((ratios / mixed[:, None]).mean(axis=0).max()) - 1.0 if mixed.all() else np.inf


def fisher_stderr(ratios: Array, pi: Array) -> Array:
    """Standard errors (K,) from the Fisher information on the support, with its sum fixed."""
    support = np.flatnonzero(pi > 0)
    stderr = np.zeros(len(pi))
    if len(support) < 2:
        return stderr
    scaled = ratios[:, support] / (ratios @ pi)[:, None]
    information = scaled.T @ scaled
    s = len(support)
    basis = np.linalg.qr(np.column_stack([np.ones(s), np.eye(s)[:, : s - 1]]))[0][:, 1:]
    cov = basis @ np.linalg.pinv(basis.T @ information @ basis, hermitian=True) @ basis.T
    stderr[support] = np.sqrt(np.maximum(cov.diagonal(), 0.0))
    return stderr


def match_predictions(confusion: Array, predicted: Array) -> Shares:
    r"""Black-box shift estimation (Lipton 2018): $\min_\pi \|C \pi - \mu\|^2$ on the simplex.

    Args:
        confusion: (K, K) share of predictions i among samples of source k, columns sum to 1.
        predicted: (K,) share of predictions in the target.
    """
    solution = solve_simplex_ls(confusion, predicted)
    return Shares(solution.weights, 2 * solution.objective, 2 * solution.gap)


def match_predictions_regularised(
    confusion: Array, predicted: Array, q: Array, n: int, *, confidence: float = 0.05
) -> Shares:
    r"""Regularised learning under label shift (Azizzadenesheli 2019).

    $\min_\pi \|C \pi - \mu\| + \alpha \Delta \|\pi / q - 1\|$ on the simplex, with the paper's
    bound $\Delta$ on the error of the confusion matrix and $\alpha = 0.01$: the bound is that
    loose. The optimum lies on the path of the squared problem, $\|C \pi - \mu\|^2 + \rho
    \|\pi / q - 1\|^2$, where $\rho \|\pi / q - 1\| = \alpha \Delta \|C \pi - \mu\|$; along the
    convex curve of the two norms that ratio only grows with $\rho$, so bisection finds it.

    Args:
        confusion: As in `match_predictions`.
        predicted: As in `match_predictions`.
        q: (K,) shares at which the classifier was trained.
        n: Samples behind the confusion matrix.
        confidence: Probability with which the bound may fail.
    """
    log = np.log(2 * len(q) / confidence)
    delta = _LOOSE * 3 * float(2 * log / (3 * n) + np.sqrt(2 * log / n))
    low, high = _RIDGES
    for _ in range(50):
        middle = (low + high) / 2
        pi = _squared(confusion, predicted, q, 10.0**middle)
        misfit, size = _norms(confusion, predicted, q, pi)
        if 10.0**middle * size > delta * misfit:
            high = middle
        else:
            low = middle
    ridge = 10.0**high
    pi = _squared(confusion, predicted, q, ridge)
    misfit, size = _norms(confusion, predicted, q, pi)
    value = misfit + delta * size
    # Any u and v of norm at most one give a linear function below the objective. These are the
    # gradients of the norms; where the optimum has no misfit, u is shorter than one.
    v = (pi / q - 1) / (size or 1.0)
    u = (confusion @ pi - predicted) * min(1 / (misfit or 1.0), delta / (ridge * (size or 1.0)))
    lower = float((confusion.T @ u + delta * v / q).min() - u @ predicted - delta * v.sum())
    return Shares(pi, value, max(value - lower, 0.0))


def _squared(confusion: Array, predicted: Array, q: Array, ridge: float) -> Array:
    root = np.sqrt(ridge)
    A = np.vstack([confusion, root * np.diag(1 / q)])
    return solve_simplex_ls(A, np.append(predicted, np.full(len(q), root))).weights


def _norms(confusion: Array, predicted: Array, q: Array, pi: Array) -> tuple[float, float]:
    misfit = float(np.linalg.norm(confusion @ pi - predicted))
    return misfit, float(np.linalg.norm(pi / q - 1))
