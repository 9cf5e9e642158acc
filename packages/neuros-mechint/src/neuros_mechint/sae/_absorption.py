"""Rows that the features of their concept miss, and the one feature that codes them instead."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.sae._logistic import Logistic, fit_logistic, sparse_weights

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["LEAST_COSINE", "Missed", "MissedRows", "mean_rate", "missed_by_features", "projected"]

# Chanin 2024: a further feature belongs to the concept when it adds this much to the F1 score.
_SPLIT_GAIN = 0.03
_MOST_MAIN = 10
LEAST_COSINE = 0.025
"""How far an absorbing feature has to point along the probe (Chanin 2024)."""
# SAEBench, by the same authors: share of the activation's projection that it has to carry.
_LEAST_SHARE = 0.4


class Missed(NamedTuple):
    """Rows of one class that the probe on activations finds and the class's features miss.

    Attributes:
        rows: Their numbers, rising.
        n_found: How many rows the probe finds.
        direction: Unit vector of the probe.
    """

    rows: Int64[Tensor, "missed"]
    n_found: int
    direction: Float[Tensor, "latent"]


class MissedRows(NamedTuple):
    """The missed rows of every class, and what is needed to ask who codes them.

    Attributes:
        classes: One entry per class.
        directions: Directions of the features in raw units, shape (feature, latent).
    """

    classes: list[Missed]
    directions: Float[Tensor, "feature latent"]

    def cosines(self, c: int) -> Float[Tensor, "feature"]:
        """Cosine of every feature's direction with the probe of a class."""
        norms = self.directions.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
        cosines: Tensor = self.directions @ self.classes[c].direction / norms
        return cosines


def missed_by_features(
    f: "csr_matrix",
    target: NDArray[np.bool_],
    ranking: NDArray[np.float64],
    found: NDArray[np.bool_],
    probe: Logistic,
    *,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
) -> Missed:
    """False negatives of the features that stand for a class (Chanin 2024, section 5).

    Args:
        f: Features of all rows.
        target: Which rows belong to the class.
        ranking: Decides between features to which the sparse probe gives no weight.
        found: Which rows the probe on activations takes for the class.
        probe: That probe.
        train: Numbers of the rows to learn from.
        test: Numbers of the rows that are judged.
    """
    weights = np.maximum(sparse_weights(f[train], target[train]), 0)
    order = np.lexsort((-ranking, -weights))[:_MOST_MAIN]
    columns = f[:, order].toarray()
    main, probe_main = _main(columns, target, train, test)
    positive = test[found[test] & target[test]]
    silent = (columns[positive, :main] == 0).all(1)
    missed = silent & ~probe_main.predict(columns[positive, :main])
    direction = torch.from_numpy(probe.direction / np.linalg.norm(probe.direction))
    return Missed(torch.from_numpy(np.sort(positive[missed])), len(positive), direction)


def _main(
    columns: NDArray[np.float64],
    target: NDArray[np.bool_],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
) -> tuple[int, Logistic]:
    """Number of features that a class is split over, until one more adds little, and its probe."""
    chosen, best = _scored(columns[:, :1], target, train, test)
    for k in range(2, columns.shape[1] + 1):
        probe, score = _scored(columns[:, :k], target, train, test)
        if score <= best + _SPLIT_GAIN:
            return k - 1, chosen
        chosen, best = probe, score
    return columns.shape[1], chosen


def _scored(
    columns: NDArray[np.float64],
    target: NDArray[np.bool_],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
) -> tuple[Logistic, float]:
    """Probe on some features and its F1 score on held-out rows."""
    probe = fit_logistic(columns[train], target[train], balanced=True)
    predicted = probe.predict(columns[test])
    hits = 2 * float((predicted & target[test]).sum())
    return probe, hits / float(predicted.sum() + target[test].sum())


def projected(
    f: "csr_matrix",
    rows: Float[Tensor, "batch latent"],
    origin: Float[Tensor, "latent"],
    missed: MissedRows,
    *,
    batch_size: int,
) -> list[Bool[Tensor, "_"]]:
    """Which missed rows one feature codes: the largest share of the projection on the probe."""
    found = []
    for c, one in enumerate(missed.classes):
        along = missed.directions @ one.direction
        cosines = missed.cosines(c)
        whole = (rows[one.rows].double() - origin) @ one.direction
        verdicts = [torch.zeros(0, dtype=torch.bool)]
        for part, projection in zip(
            torch.split(one.rows, batch_size), torch.split(whole, batch_size), strict=True
        ):
            share, top = (torch.from_numpy(f[part.numpy()].toarray()) * along).max(1)
            enough = (projection > 0) & (share >= _LEAST_SHARE * projection)
            verdicts.append(enough & (cosines[top] >= LEAST_COSINE))
        found.append(torch.cat(verdicts))
    return found


def mean_rate(missed: MissedRows, absorbed: Sequence[Bool[Tensor, "_"]]) -> float:
    """Share of the absorbed rows among those that the probe finds, averaged over the classes.

    A class that the probe never finds has no rate; without any that has one it is NaN.
    """
    rates = [
        float(verdict.sum()) / one.n_found
        for one, verdict in zip(missed.classes, absorbed, strict=True)
        if one.n_found
    ]
    return float(np.mean(rates)) if rates else float("nan")
