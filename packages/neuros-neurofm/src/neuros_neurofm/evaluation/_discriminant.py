"""Linear classifiers of labelled rows, and what their logits cost."""

import numpy as np
from numpy.typing import NDArray

from neuros_neurofm.evaluation._arrays import Array

__all__ = ["SHRINKAGES", "cross_entropy", "solve_discriminant", "solve_logistic"]

# Of the covariance towards a multiple of the identity, to choose from.
SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 0.6, 0.9)


def solve_discriminant(
    values: Array, labels: NDArray[np.int64], shrinkage: float
) -> tuple[Array, Array]:
    r"""Linear discriminants with covariance $(1 - \lambda) S + \lambda \mathrm{tr}(S) / d\, I$.

    Args:
        values: Features, (sample, feature); z-scored inside.
        labels: 0 ... K - 1, each at least once, (sample,).
        shrinkage: $\lambda$ in (0, 1].

    Returns:
        Weights (feature, class) and offsets (class,) of the logits, priors included.
    """
    counts = np.bincount(labels)
    centre, scale = values.mean(axis=0), values.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    z = (values - centre) / scale
    means = np.stack([z[labels == k].mean(axis=0) for k in range(len(counts))])
    rest = z - means[labels]
    scatter = rest.T @ rest / len(z)
    size = len(scatter)
    # Where a class has one sample each there is no scatter, and every direction is as good.
    level = np.trace(scatter) / size or 1.0
    covariance = (1 - shrinkage) * scatter + shrinkage * (level * np.eye(size))
    weights = np.linalg.solve(covariance, means.T)
    offset = np.log(counts / len(z)) - 0.5 * (means * weights.T).sum(axis=1)
    weights = weights / scale[:, None]
    return weights, offset - centre @ weights


def solve_logistic(values: Array, labels: NDArray[np.int64], penalty: float) -> tuple[Array, Array]:
    r"""Multinomial logistic regression, mean cross-entropy plus $\tfrac{\lambda}{2} \|W\|^2$.

    The weights are those of z-scored features; the offsets carry no penalty. It is convex, and
    L-BFGS begins at the shares of the classes.

    Args:
        values: Features, (sample, feature); z-scored inside.
        labels: 0 ... K - 1, each at least once, (sample,).
        penalty: $\lambda$, > 0.

    Returns:
        Weights (feature, class) and offsets (class,) of the logits.
    """
    # scipy.optimize is not free to import.
    from scipy.optimize import minimize

    counts = np.bincount(labels)
    centre, scale = values.mean(axis=0), values.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    design = np.column_stack([np.ones(len(values)), (values - centre) / scale])
    wanted = np.eye(len(counts))[labels]
    costs = np.full((design.shape[1], 1), penalty)
    costs[0] = 0.0
    start = np.zeros((design.shape[1], len(counts)))
    start[0] = np.log(counts / len(labels))

    def objective(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(start.shape)
        logits = design @ weights
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        gradient = design.T @ (shares - wanted) / len(design) + costs * weights
        loss = cross_entropy(logits, labels) + 0.5 * float((costs * weights**2).sum())
        return loss, gradient.ravel()

    found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B")
    solved = found.x.reshape(start.shape)
    weights = solved[1:] / scale[:, None]
    return weights, solved[0] - centre @ weights


def cross_entropy(logits: Array, labels: NDArray[np.int64]) -> float:
    """Mean cross-entropy in nats.

    Args:
        logits: (trial, class).
        labels: (trial,).

    Returns:
        The mean over trials.
    """
    top = logits.max(axis=1, keepdims=True)
    norm = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    return float((norm - logits[np.arange(len(labels)), labels]).mean())
