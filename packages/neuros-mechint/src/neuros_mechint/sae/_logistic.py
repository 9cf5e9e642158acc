"""Logistic regression in the units of its input."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Logistic", "fit_logistic"]


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
