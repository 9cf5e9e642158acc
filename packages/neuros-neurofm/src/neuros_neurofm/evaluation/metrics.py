"""How good a prediction is: explained variance, right classes, information per spike."""

from typing import Literal, overload

import numpy as np
from scipy.special import gammaln

from neuros_neurofm.evaluation._arrays import Array, Data, as_float64

__all__ = ["balanced_accuracy", "bits_per_spike", "poisson_nll", "r2_score"]


@overload
def r2_score(
    y_true: Data, y_pred: Data, *, multioutput: Literal["uniform_average"] = ...
) -> float: ...
@overload
def r2_score(y_true: Data, y_pred: Data, *, multioutput: Literal["raw_values"]) -> Array: ...
def r2_score(
    y_true: Data,
    y_pred: Data,
    *,
    multioutput: str = "uniform_average",
) -> float | Array:
    r"""Coefficient of determination, $1 - \sum (y-\hat y)^2 / \sum (y-\bar y)^2$ per column.

    NaN in `y_true` marks a missing entry: it is left out of its column, whatever the prediction
    there. A prediction of an entry that is not missing must be finite. A constant column scores 1
    when predicted exactly, otherwise 0.

    Args:
        y_true: (time,) or (time, dim).
        y_pred: The same shape.
        multioutput: `uniform_average` over the columns, or `raw_values`, one per column.

    Returns:
        A number, or an array (dim,).

    Raises:
        ValueError: Shapes that differ, a column with fewer than two entries, a value that is not
            finite, or an unknown `multioutput`.

    Examples:
        >>> import numpy as np
        >>> r2_score(np.array([1.0, 2.0, 3.0, np.nan]), np.array([1.0, 2.0, 2.0, 9.0]))
        0.5
    """
    truth, prediction = _pair("y_true", y_true, "y_pred", y_pred)
    if multioutput not in ("uniform_average", "raw_values"):
        raise ValueError(f"multioutput must be uniform_average or raw_values, got {multioutput!r}")
    if truth.ndim not in (1, 2):
        raise ValueError(f"y_true must be (time,) or (time, dim), got shape {truth.shape}")
    truth, prediction = truth.reshape(len(truth), -1), prediction.reshape(len(truth), -1)
    present = ~np.isnan(truth)
    _check_present("y_true", truth, present)
    _check_present("y_pred", prediction, present)
    n = present.sum(axis=0)
    if n.size == 0 or n.min() < 2:
        raise ValueError(
            f"every column of y_true needs at least 2 entries that are not NaN, got {n.tolist()}"
        )
    mean = np.where(present, truth, 0.0).sum(axis=0) / n
    residual = (np.where(present, truth - prediction, 0.0) ** 2).sum(axis=0)
    spread = (np.where(present, truth - mean, 0.0) ** 2).sum(axis=0)
    scores = np.where(residual == 0, 1.0, 0.0)
    np.divide(residual, spread, out=scores, where=spread > 0)
    scores = np.where(spread > 0, 1.0 - scores, scores)
    return float(scores.mean()) if multioutput == "uniform_average" else scores


def balanced_accuracy(labels: Data, predicted: Data) -> float:
    r"""Share of right answers, mean over classes, $\frac1K \sum_k P(\hat y = k \mid y = k)$.

    The K classes are those that occur in `labels`. Whoever always gives the same answer scores
    $1/K$, however often the classes occur.

    Args:
        labels: Integers, (time,); a negative one marks a missing label and is left out.
        predicted: Integers, (time,).

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: Shapes that differ or are not (time,), values that are no integers, or no label.

    Examples:
        >>> import numpy as np
        >>> balanced_accuracy(np.array([0, 0, 0, 1, -1]), np.array([0, 0, 0, 0, 1]))
        0.5

    References:
        Brodersen, K. H. et al. (2010). The balanced accuracy and its posterior distribution. ICPR.
        https://doi.org/10.1109/ICPR.2010.764
    """
    truth, answer = _pair("labels", labels, "predicted", predicted)
    if truth.ndim != 1:
        raise ValueError(f"labels must be (time,), got shape {truth.shape}")
    for name, x in (("labels", truth), ("predicted", answer)):
        if not (np.isfinite(x) & (x == np.round(x))).all():
            raise ValueError(f"{name} must be integers, got {x[x != np.round(x)][:3].tolist()}")
    classes = np.unique(truth[truth >= 0])
    if not classes.size:
        raise ValueError("labels must hold at least one label >= 0, got none")
    return float(np.mean([(answer[truth == k] == k).mean() for k in classes]))


def poisson_nll(rates: Data, counts: Data) -> float:
    r"""Negative log-likelihood of counts under Poisson rates, $\sum r - n \ln r + \ln n!$.

    NaN counts are left out. A rate of 0 counts as 1e-9, as in the Neural Latents Benchmark.

    Args:
        rates: Expected counts per bin, >= 0, any shape.
        counts: Counts per bin, >= 0, the same shape.

    Returns:
        The sum over all entries, in nats.

    Raises:
        ValueError: Shapes that differ, or values that are negative or not finite.

    Examples:
        >>> import numpy as np
        >>> poisson_nll(np.array([2.0, 5.0]), np.array([0.0, np.nan]))
        2.0

    References:
        Pei, F. et al. (2021). Neural Latents Benchmark '21. NeurIPS Datasets and Benchmarks.
        https://doi.org/10.48550/arXiv.2109.04463
    """
    r, n = _pair("rates", rates, "counts", counts)
    present = ~np.isnan(n)
    for name, x in (("counts", n), ("rates", r)):
        _check_present(name, x, present)
        if (x[present] < 0).any():
            raise ValueError(f"{name} must be >= 0, got {x[present].min()}")
    r, n = r[present], n[present]
    r = np.where(r == 0, 1e-9, r)
    return float((r - n * np.log(r) + gammaln(n + 1.0)).sum())


def bits_per_spike(rates: Data, counts: Data) -> float:
    r"""Information per spike that rates give beyond each neuron's mean rate.

    $(\mathrm{NLL}_\mathrm{null} - \mathrm{NLL}_\mathrm{model}) / (N_\mathrm{spikes} \ln 2)$, where
    the null model is every neuron's mean over the evaluated counts. NaN counts are left out. The
    null model has seen the evaluated counts, so that a model may score below 0.

    Args:
        rates: Expected counts per bin, >= 0, (..., unit).
        counts: Counts per bin, the same shape.

    Returns:
        Bits per spike.

    Raises:
        ValueError: Shapes that differ, values that are negative or not finite, or no spike at all.

    Examples:
        >>> import numpy as np
        >>> counts = np.array([[0.0], [2.0]])
        >>> bits_per_spike(np.ones((2, 1)), counts), round(bits_per_spike(counts, counts), 6)
        (0.0, 1.0)

    References:
        Pei, F. et al. (2021). Neural Latents Benchmark '21. NeurIPS Datasets and Benchmarks.
        https://doi.org/10.48550/arXiv.2109.04463
    """
    r, n = _pair("rates", rates, "counts", counts)
    if n.ndim == 0:
        raise ValueError("counts must be (..., unit), got a single number")
    n_spikes = float(np.nansum(n))
    if n_spikes == 0:
        raise ValueError("counts must hold at least one spike, got none; score a longer block")
    flat = n.reshape(-1, n.shape[-1])
    n_present = (~np.isnan(flat)).sum(axis=0)
    mean = np.nansum(flat, axis=0) / np.maximum(n_present, 1)
    gain = poisson_nll(np.broadcast_to(mean, n.shape), n) - poisson_nll(r, n)
    return gain / (n_spikes * float(np.log(2.0)))


def _pair(name_a: str, a: Data, name_b: str, b: Data) -> tuple[Array, Array]:
    first, second = as_float64(name_a, a), as_float64(name_b, b)
    if first.shape != second.shape:
        raise ValueError(
            f"{name_a} and {name_b} must have equal shapes, got {first.shape} and {second.shape}"
        )
    return first, second


def _check_present(
    name: str, x: Array, present: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
) -> None:
    n_bad = int((~np.isfinite(x) & present).sum())
    if n_bad:
        raise ValueError(
            f"{name} must be finite where the target is not NaN, got {n_bad} NaN or infinite values"
        )
