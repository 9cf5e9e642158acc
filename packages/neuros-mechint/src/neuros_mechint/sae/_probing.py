"""Linear probes on features: how well few of them tell the labels, and where one hides another."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from neuros_mechint.sae._logistic import Logistic, fit_logistic
from neuros_mechint.sae._rows import Coding, pieces

__all__ = ["LabelScores", "score_labels"]

# Chanin 2024: a further feature belongs to the concept when it adds this much to the F1 score.
_SPLIT_GAIN = 0.03
_MOST_MAIN = 10
# The projection form of the measure: how far the hiding feature has to point along the probe, and
# how much of the activation's projection it has to carry.
_LEAST_COSINE = 0.025
_LEAST_SHARE = 0.4
_TEST_SHARE = 0.3


class LabelScores(NamedTuple):
    """What labels tell about a coder.

    Attributes:
        probing: Number of features -> balanced accuracy, averaged over the classes.
        probing_dense: The same for the activations themselves.
        absorption: Share of the absorbed rows among those that the probe finds.
    """

    probing: dict[int, float]
    probing_dense: float
    absorption: float


def score_labels(
    coder: Coding,
    rows: Float[Tensor, "batch latent"],
    labels: ArrayLike,
    *,
    ks: Sequence[int],
    generator: torch.Generator,
    batch_size: int,
) -> LabelScores:
    """Probe every class against the rest on rows that the probes did not see."""
    names, classes = _classes(labels, len(rows))
    order = torch.randperm(len(rows), generator=generator)
    n_test = max(int(_TEST_SHARE * len(rows)), 1)
    test, train = order[:n_test], order[n_test:]
    means = _class_means(coder, rows[train], classes[train], len(names), batch_size)
    scores, dense, absorbed = [], [], []
    x = rows.double().numpy()
    for c in range(len(names)):
        target = (classes == c).numpy()
        _check_split(names[c], target, train, test)
        rest = [k for k in range(len(names)) if k != c]
        counts = torch.bincount(classes[train], minlength=len(names)).double()
        others = (means[rest] * counts[rest, None]).sum(0) / counts[rest].sum()
        best = (means[c] - others).topk(min(max(*ks, _MOST_MAIN), means.shape[1])).indices
        f = torch.cat([part[:, best] for part in _encoded(coder, rows, batch_size)])
        columns = f.double().numpy()
        scores.append([_accuracy(columns[:, :k], target, train, test) for k in ks])
        probe = fit_logistic(x[train], target[train], balanced=True)
        dense.append(_balanced(probe.predict(x[test]), target[test]))
        main = best[: _count_main(columns[train], target[train])]
        found = torch.from_numpy(probe.predict(x) & target)
        absorbed.append(_absorbed_share(coder, rows[found], main, probe, batch_size))
    probing = dict(zip(ks, np.mean(scores, axis=0).tolist(), strict=True))
    return LabelScores(probing, float(np.mean(dense)), float(np.mean(absorbed)))


def _classes(labels: ArrayLike, n_rows: int) -> tuple[NDArray[np.generic], Int64[Tensor, "batch"]]:
    values = np.asarray(labels)
    if values.shape != (n_rows,):
        raise ValueError(
            f"labels needs one label per row of the activations, ({n_rows},), got {values.shape}"
        )
    names, classes = np.unique(values, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"labels needs at least two classes, got only {names.tolist()}")
    return names, torch.from_numpy(classes.astype(np.int64))


def _check_split(
    name: object, target: NDArray[np.bool_], train: Int64[Tensor, "n"], test: Int64[Tensor, "m"]
) -> None:
    if not (0 < target[train].sum() < len(train) and 0 < target[test].sum() < len(test)):
        raise ValueError(
            f"class {name!s} has {int(target.sum())} of {len(target)} rows, too few for the train "
            "and test parts to hold both it and the rest; give more rows"
        )


def _encoded(
    coder: Coding, rows: Float[Tensor, "batch latent"], batch_size: int
) -> Iterator[Float[Tensor, "part feature"]]:
    for part in pieces(rows, batch_size):
        yield coder.encode(part)


def _class_means(
    coder: Coding,
    rows: Float[Tensor, "batch latent"],
    classes: Int64[Tensor, "batch"],
    n_classes: int,
    batch_size: int,
) -> Float[Tensor, "domain feature"]:
    """Mean of every feature in every class."""
    total: Tensor | None = None
    parts = pieces(classes, batch_size)
    for part, f in zip(parts, _encoded(coder, rows, batch_size), strict=True):
        sums = torch.zeros(n_classes, f.shape[1], dtype=torch.float64)
        sums.index_add_(0, part, f.double())
        total = sums if total is None else total + sums
    counts = torch.bincount(classes, minlength=n_classes).clamp(min=1)
    return torch.zeros(n_classes, 0) if total is None else total / counts[:, None]


def _balanced(predicted: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    return float((predicted[target].mean() + (~predicted[~target]).mean()) / 2)


def _accuracy(
    columns: NDArray[np.float64],
    target: NDArray[np.bool_],
    train: Int64[Tensor, "n"],
    test: Int64[Tensor, "m"],
) -> float:
    probe = fit_logistic(columns[train], target[train], balanced=True)
    return _balanced(probe.predict(columns[test]), target[test])


def _count_main(columns: NDArray[np.float64], target: NDArray[np.bool_]) -> int:
    """Number of features that a concept is split over: until one more adds little to F1."""
    best = _f1(columns[:, :1], target)
    most = min(_MOST_MAIN, int(columns.shape[1]))
    for k in range(2, most + 1):
        score = _f1(columns[:, :k], target)
        if score - best <= _SPLIT_GAIN:
            return k - 1
        best = score
    return most


def _f1(columns: NDArray[np.float64], target: NDArray[np.bool_]) -> float:
    predicted = fit_logistic(columns, target, balanced=True).predict(columns)
    hits = float((predicted & target).sum())
    return 2 * hits / float(predicted.sum() + target.sum())


def _absorbed_share(
    coder: Coding,
    rows: Float[Tensor, "batch latent"],
    main: Int64[Tensor, "k"],
    probe: Logistic,
    batch_size: int,
) -> float:
    """Share of rows where no main feature fires and one other feature carries the concept."""
    if not len(rows):
        return 0.0
    direction = torch.from_numpy(probe.direction / np.linalg.norm(probe.direction))
    absorbed = [
        _absorbed(coder, part, main, direction.to(part.dtype)) for part in pieces(rows, batch_size)
    ]
    return float(torch.cat(absorbed).double().mean())


def _absorbed(
    coder: Coding,
    rows: Float[Tensor, "batch latent"],
    main: Int64[Tensor, "k"],
    direction: Float[Tensor, "latent"],
) -> Bool[Tensor, "batch"]:
    f = coder.encode(rows)
    origin = coder.decode(torch.zeros_like(f[:1]))
    along = coder.dictionary @ direction
    cosine = along / coder.dictionary.norm(dim=1).clamp(min=torch.finfo(f.dtype).tiny)
    share, top = (f * along).max(1)
    whole = (rows - origin) @ direction
    silent = (f[:, main] == 0).all(1)
    absorbed: Tensor = silent & (cosine[top] >= _LEAST_COSINE) & (whole > 0)
    return absorbed & (share >= _LEAST_SHARE * whole)
