"""How much a neuron's activation depends on a category, by several indices."""

import math
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

__all__ = [
    "INDICES",
    "Index",
    "categorise",
    "f_test",
    "index_values",
    "single_minded",
    "tuning_curves",
]

Index: TypeAlias = Literal["eta2", "dprime", "lifetime_sparseness", "osi", "dsi"]
INDICES = ("eta2", "dprime", "lifetime_sparseness", "osi", "dsi")
Activations = Float[np.ndarray, "row unit"]
Codes = Int[np.ndarray, "row"]
Tuning = Float[np.ndarray, "unit category"]


def categorise(variable: NDArray[np.generic], n_bins: int) -> tuple[Codes, NDArray[np.generic]]:
    """Number the categories; a float with more than `n_bins` values falls into equal-count bins.

    Returns:
        The category of each row, and what each category is: its value, or the mean of its bin.
    """
    values, codes = np.unique(variable, return_inverse=True)
    if variable.dtype.kind != "f" or len(values) <= n_bins:
        return codes.astype(np.int64), values
    numbers = variable.astype(np.float64)
    inner = np.quantile(numbers, np.arange(1, n_bins) / n_bins)
    codes = np.searchsorted(np.unique(inner), numbers, side="right")
    codes = np.unique(codes, return_inverse=True)[1].astype(np.int64)
    return codes, np.bincount(codes, numbers) / np.bincount(codes)


def tuning_curves(x: Activations, codes: Codes) -> Tuning:
    """Mean activation in every category."""
    sums = np.zeros((int(codes.max()) + 1, x.shape[1]))
    np.add.at(sums, codes, x)
    return (sums / np.bincount(codes)[:, None]).T


def f_test(x: Activations, codes: Codes) -> tuple[Float[np.ndarray, "unit"], ...]:
    r"""$\eta^2 = SS_{between} / SS_{total}$ and the p-value of F; 0 and 1 for constant neurons."""
    from scipy.special import fdtrc

    counts = np.bincount(codes)
    centred = x - x.mean(0)
    means = tuning_curves(centred, codes)
    within = ((centred - means.T[codes]) ** 2).sum(0)
    between = (counts * means**2).sum(1)
    constant = x.max(0) == x.min(0)
    eta2 = np.where(constant, 0.0, between / np.where(constant, 1.0, between + within))
    df = len(counts) - 1, len(x) - len(counts)
    with np.errstate(divide="ignore"):
        F = np.where(constant, 0.0, between / df[0] / np.where(constant, 1.0, within / df[1]))
    return eta2, np.where(constant, 1.0, fdtrc(*df, F))


def index_values(
    index: Index,
    x: Activations,
    codes: Codes,
    categories: NDArray[np.generic],
    period: float,
) -> Float[np.ndarray, "unit"]:
    """One index for every neuron."""
    if index == "eta2":
        return f_test(x, codes)[0]
    if index == "dprime":
        values = _dprime(x, codes)
    elif index == "lifetime_sparseness":
        values = _sparseness(tuning_curves(x, codes))
    else:
        turns = (2 if index == "osi" else 1) * categories.astype(np.float64) / period
        values = _resultant(tuning_curves(x, codes), 2 * math.pi * turns)
    # What is constant may still leave its rounding behind.
    return np.where(x.max(0) == x.min(0), 0.0, values)


def _dprime(x: Activations, codes: Codes) -> Float[np.ndarray, "unit"]:
    """Preferred category against all others, in units of their root-mean-square deviation."""
    tuning = tuning_curves(x, codes)
    found = np.zeros(x.shape[1])
    for unit, best in enumerate(tuning.argmax(1)):
        own, others = x[codes == best, unit], x[codes != best, unit]
        gap = float(own.mean() - others.mean())
        spread = math.sqrt((own.var(ddof=1) + others.var(ddof=1)) / 2)
        found[unit] = 0.0 if gap == 0 else gap / spread if spread > 0 else math.inf
    return found


def _sparseness(tuning: Tuning) -> Float[np.ndarray, "unit"]:
    r"""$(1 - \langle r \rangle^2 / \langle r^2 \rangle) / (1 - 1/n)$ (Vinje & Gallant 2000)."""
    n = tuning.shape[1]
    power = (tuning**2).mean(1)
    silent = power == 0
    ratio = np.where(silent, 1.0, tuning.mean(1) ** 2 / np.where(silent, 1.0, power))
    return np.asarray((1 - ratio) / (1 - 1 / n))


def _resultant(tuning: Tuning, angles: Float[np.ndarray, "category"]) -> Float[np.ndarray, "unit"]:
    r"""$|\sum_k r_k e^{i \theta_k}| / \sum_k |r_k|$, one minus the circular variance."""
    total = np.abs(tuning).sum(1)
    length = np.abs(tuning @ np.exp(1j * angles))
    return np.where(total > 0, length / np.where(total > 0, total, 1.0), 0.0)


def single_minded(
    scores: Float[np.ndarray, "variable unit"], threshold: float, margin: float
) -> list[tuple[int, int]]:
    """Units whose best score is at least `threshold` and leads the second, by falling score.

    Args:
        scores: Score of every variable.
        threshold: Least score of the best.
        margin: Least lead, as a share of the best; the second of a lone variable is 0.

    Returns:
        Pairs of a unit and the number of its variable.
    """
    ranked = np.sort(np.vstack([np.zeros(scores.shape[1]), scores]), axis=0)
    best, second = ranked[-1], ranked[-2]
    chosen = np.flatnonzero((best >= threshold) & (best - second >= margin * best))
    order = chosen[np.argsort(-best[chosen], kind="stable")]
    return [(int(unit), int(scores[:, unit].argmax())) for unit in order]
