"""Logistic regression in the units of its input, and the sparse one that ranks features."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Logistic", "fit_logistic", "sparse_weights"]

# Chanin 2024: weight of the sum of absolute weights beside the mean cross-entropy.
_L1 = 0.01
_MOST_STEPS = 300
_TOLERANCE = 1e-4


class Logistic(NamedTuple):
    """Weights and bias: the logit of a row is `row @ direction + bias`."""

    direction: NDArray[np.float64]
    bias: float

    def predict(self, x: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether each row is more likely to belong to the class than not."""
        return np.asarray(x @ self.direction + self.bias > 0)


def fit_logistic(x: NDArray[np.float64], target: NDArray[np.bool_], *, balanced: bool) -> Logistic:
    """Fit on standardised columns, with the mild penalty that keeps separable classes finite."""
    from sklearn.linear_model import LogisticRegression

    mean, std = x.mean(0), x.std(0)
    std = np.where(std > 0, std, 1.0)
    weight = "balanced" if balanced else None
    model = LogisticRegression(class_weight=weight, max_iter=1000).fit((x - mean) / std, target)
    direction = np.asarray(model.coef_[0] / std, dtype=np.float64)
    return Logistic(direction, float(model.intercept_[0] - direction @ mean))


def sparse_weights(f: "csr_matrix", target: NDArray[np.bool_]) -> NDArray[np.float64]:
    r"""Weights of a logistic regression with the penalty $0.01 \sum_i |w_i|$, without the bias.

    Rows of the class count as much together as the others. Features are divided by the
    root-mean-square of those that are active, so that the unit of the data does not matter.
    Solved by accelerated proximal steps (Beck & Teboulle 2009) that restart where they overshoot.
    """
    from scipy.special import expit

    n_rows, n_features = f.shape
    rms = float(np.sqrt(np.square(f.data).mean())) if f.nnz else 1.0
    x: csr_matrix = f * (1 / rms)
    counts = np.where(target, (n_rows - target.sum()) / target.sum(), 1.0)
    step = 1 / _curvature(x, counts)
    w = look = np.zeros(n_features + 1)
    momentum = 1.0
    for _ in range(_MOST_STEPS):
        # The last weight is the bias, which pays no penalty.
        error = counts * (expit(x @ look[:-1] + look[-1]) - target) / n_rows
        moved = look - step * np.append(x.T @ error, error.sum())
        moved[:-1] = np.sign(moved[:-1]) * np.maximum(np.abs(moved[:-1]) - step * _L1, 0)
        if (look - moved) @ (moved - w) > 0:
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        look = moved + (momentum - 1) / following * (moved - w)
        change = np.abs(moved - w).max()
        w, momentum = moved, following
        if change <= _TOLERANCE * np.abs(w).max():
            break
    return w[:-1]


def _curvature(x: "csr_matrix", counts: NDArray[np.float64]) -> float:
    """Bound on the curvature of the mean cross-entropy, by power iteration."""
    v = np.ones(x.shape[1] + 1)
    size = 1.0
    for _ in range(30):
        v = v / np.linalg.norm(v)
        rows = counts * (x @ v[:-1] + v[-1]) / x.shape[0]
        v = np.append(x.T @ rows, rows.sum())
        size = float(np.linalg.norm(v))
    # A logistic function curves by at most a quarter; the iteration comes from below.
    return 1.05 * size / 4
