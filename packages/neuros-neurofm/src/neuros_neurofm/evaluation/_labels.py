"""Labels as rows: what is decoded when the targets are classes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation.metrics import balanced_accuracy

__all__: list[str] = []


def one_hot(labels: NDArray[Any], n_classes: int) -> Array:
    """Turn labels (time,) into rows (time, class) of 0 and 1, NaN where a label is negative.

    Raises:
        ValueError: A label that is none of the classes.
    """
    highest = int(labels.max(initial=-1))
    if highest >= n_classes:
        raise ValueError(
            f"label {highest} is none of the model's {n_classes} classes; build it with "
            f"behavior_dim = {highest + 1} or more"
        )
    rows = np.zeros((len(labels), n_classes))
    known = labels >= 0
    rows[np.flatnonzero(known), labels[known].astype(np.int64)] = 1.0
    rows[~known] = np.nan
    return rows


def score_classes(truth: Array, predicted: Array) -> float:
    """Balanced accuracy of the largest entry of each row, (time, class)."""
    return balanced_accuracy(truth.argmax(axis=1), predicted.argmax(axis=1))


def chance_of(labels: NDArray[Any]) -> float:
    """Balanced accuracy of a constant answer; 0 without a label."""
    n_classes = len(np.unique(labels[labels >= 0]))
    return 1.0 / n_classes if n_classes else 0.0
