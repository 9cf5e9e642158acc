"""Linear probes on features: how well few of them tell the labels, and where one hides another."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from neuros_mechint.sae._absorption import (
    Missed,
    MissedRows,
    mean_rate,
    missed_by_features,
    projected,
)
from neuros_mechint.sae._logistic import Logistic, fit_logistic

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["LabelScores", "Labelled", "score_labels"]

_TEST_SHARE = 0.3


class Labelled(NamedTuple):
    """Rows with features and labels.

    Attributes:
        features: Shape (batch, feature), sparse.
        rows: What the coder reconstructs, shape (batch, latent).
        directions: Of the features, in the unit of `rows`, shape (feature, latent).
        origin: Reconstruction without any feature, shape (latent,).
    """

    features: "csr_matrix"
    rows: Float[Tensor, "batch latent"]
    directions: Float[Tensor, "feature latent"]
    origin: Float[Tensor, "latent"]


class LabelScores(NamedTuple):
    """What labels tell about a coder.

    Attributes:
        probing: Number of features -> balanced accuracy, averaged over the classes.
        probing_dense: The same for the activations themselves.
        absorption: Share of the absorbed rows among those that the probe finds.
        missed: Rows that the features of their class miss.
    """

    probing: dict[int, float]
    probing_dense: float
    absorption: float
    missed: MissedRows


def score_labels(
    data: Labelled,
    labels: ArrayLike,
    *,
    ks: Sequence[int],
    generator: torch.Generator,
    batch_size: int,
) -> LabelScores:
    """Probe every class against the rest on rows that the probes did not see."""
    n_rows = len(data.rows)
    names, classes = _classes(labels, n_rows)
    order = torch.randperm(n_rows, generator=generator).numpy()
    n_test = max(int(_TEST_SHARE * n_rows), 1)
    test, train = order[:n_test], order[n_test:]
    contrasts = _contrasts(data.features[train], classes[train], len(names))
    x = data.rows.double().numpy()
    scores, dense = [], []
    missed: list[Missed] = []
    for c, contrast in enumerate(contrasts):
        target = classes == c
        _check_split(names[c], target, train, test)
        best = np.argsort(-contrast, kind="stable")[: max(ks)]
        columns = data.features[:, best].toarray()
        scores.append([_accuracy(columns[:, :k], target, train, test) for k in ks])
        probe = fit_logistic(x[train], target[train], balanced=True)
        dense.append(_balanced(probe, x[test], target[test]))
        missed.append(
            missed_by_features(
                data.features, target, contrast, probe.predict(x), probe, train=train, test=test
            )
        )
    probing = dict(zip(ks, np.mean(scores, axis=0).tolist(), strict=True))
    found = MissedRows(missed, data.directions)
    absorbed = projected(data.features, data.rows, data.origin, found, batch_size=batch_size)
    return LabelScores(probing, float(np.mean(dense)), mean_rate(found, absorbed), found)


def _classes(labels: ArrayLike, n_rows: int) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
    values = np.asarray(labels)
    if values.shape != (n_rows,):
        raise ValueError(
            f"labels needs one label per row of the activations, ({n_rows},), got {values.shape}"
        )
    names, classes = np.unique(values, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"labels needs at least two classes, got only {names.tolist()}")
    return names, classes.astype(np.int64)


def _check_split(
    name: object, target: NDArray[np.bool_], train: NDArray[np.int64], test: NDArray[np.int64]
) -> None:
    if not (0 < target[train].sum() < len(train) and 0 < target[test].sum() < len(test)):
        raise ValueError(
            f"class {name!s} has {int(target.sum())} of {len(target)} rows, too few for the train "
            "and test parts to hold both it and the rest; give more rows"
        )


def _contrasts(f: "csr_matrix", classes: NDArray[np.int64], n_classes: int) -> NDArray[np.float64]:
    """Mean of every feature in a class less its mean in the others, (class, feature)."""
    member = np.eye(n_classes)[classes]
    counts = member.sum(0)[:, None]
    sums = np.asarray((f.T @ member).T)
    rest = sums.sum(0) - sums
    # A class that is absent here is refused a little later, by its name.
    others = np.maximum(counts.sum() - counts, 1)
    return np.asarray(sums / np.maximum(counts, 1) - rest / others, dtype=np.float64)


def _accuracy(
    columns: NDArray[np.float64],
    target: NDArray[np.bool_],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
) -> float:
    probe = fit_logistic(columns[train], target[train], balanced=True)
    return _balanced(probe, columns[test], target[test])


def _balanced(probe: Logistic, x: NDArray[np.float64], target: NDArray[np.bool_]) -> float:
    predicted = probe.predict(x)
    return float((predicted[target].mean() + (~predicted[~target]).mean()) / 2)
