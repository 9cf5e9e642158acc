r"""Parametric resampling of feature means: $m_k^* \sim N(m_k, S_k / n_k)$, and so the target's."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from neuros_core.domains import DomainStatistics
from neuros_sourceweigher._estimate import Matched, Matching, match, read_number
from neuros_sourceweigher._moments import gather
from neuros_sourceweigher.simplex import solve_simplex_ls_batched

__all__: list[str] = []

Array = NDArray[np.float64]

# Entries of the resampled columns held at a time.
_BLOCK = 2**21


def bootstrap_weights(
    sources: Sequence[DomainStatistics],
    target: DomainStatistics,
    *,
    n_bootstrap: int = 1000,
    moments: str = "mean",
    metric: str = "efficient",
    shrinkage: float | str = "auto",
    ridge: float | str = 0.0,
    prior: Sequence[float] | Array | None = None,
    seed: int = 0,
) -> Array:
    r"""Draw weights from their sampling distribution by a parametric bootstrap.

    Every feature mean is drawn from $N(m, S / n)$ and the weights are estimated anew in the metric
    of the data. `SourceWeigher(n_bootstrap=...)` reduces the same draws to `stderr` and `interval`.

    Args:
        sources: As in `SourceWeigher.fit`, each with a covariance.
        target: As in `SourceWeigher.fit`, with a covariance.
        n_bootstrap: Number of draws.
        moments: As in `SourceWeigher`.
        metric: As in `SourceWeigher`.
        shrinkage: As in `SourceWeigher`.
        ridge: As in `SourceWeigher`, a number.
        prior: As in `SourceWeigher`.
        seed: Of the draws.

    Returns:
        (n_bootstrap, K) weights, each on the simplex.

    Raises:
        ValueError: For settings out of range, unfit domains, or a domain without a covariance.

    Examples:
        >>> a = DomainStatistics("a", 400, [0.0], [[1.0]])
        >>> b = DomainStatistics("b", 400, [4.0], [[1.0]])
        >>> draws = bootstrap_weights([a, b], DomainStatistics("t", 400, [2.0], [[5.0]]))
        >>> draws.shape, bool(abs(draws[:, 0].std() - 0.03) < 0.003)
        ((1000, 2), True)

    References:
        Efron & Tibshirani 1993, An Introduction to the Bootstrap, doi:10.1201/9780429246593, ch. 6.
    """
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap needs a number >= 1, got {n_bootstrap!r}")
    how = Matching.read(moments, metric, shrinkage)
    weight = read_number("ridge", ridge, np.inf)
    if weight is None:
        raise ValueError(
            "ridge needs a finite number >= 0 here, got 'auto'; take `best` of regularization_path"
        )
    near = None if prior is None else np.asarray(prior, dtype=np.float64)
    matched = match(gather(sources, target, moments, metric), how, near)
    return resampled_weights(matched, weight, near, n_bootstrap, np.random.default_rng(seed))


def resampled_weights(
    matched: Matched, ridge: float, prior: Array | None, count: int, rng: np.random.Generator
) -> Array:
    """Weights (count, K) of resampled means, in the metric of the data."""
    p, K = matched.columns.shape
    factors = noise_factors(matched)
    w = np.empty((count, K))
    step = max(1, _BLOCK // (p * K))
    for start in range(0, count, step):
        size = min(step, count - start)
        columns = matched.columns + draw_columns(factors, size, rng)
        part = solve_simplex_ls_batched(columns, np.zeros((size, p)), ridge=ridge, prior=prior)
        w[start : start + size] = part.weights
    return w


def noise_factors(matched: Matched) -> list[Array]:
    """Factors F (p, r) with F F^T the covariance of each mean in the metric, the target's last."""
    moments = matched.moments
    return [
        matched.metric.whiten(_factor(moments.cov(domain)) / np.sqrt(domain.n))
        for domain in (*moments.sources, moments.target)
    ]


def draw_columns(factors: list[Array], count: int, rng: np.random.Generator) -> Array:
    """Noise (count, p, K) of source means minus the target's mean."""
    parts = [rng.standard_normal((count, F.shape[1])) @ F.T for F in factors]
    noise = np.stack(parts[:-1], axis=2)
    noise -= parts[-1][:, :, None]
    return noise


def _factor(cov: Array) -> Array:
    """Matrix F with F F^T = cov."""
    factor, failed = lapack.dpotrf(cov, lower=1, clean=1)
    if not failed:
        return np.asarray(factor)
    values, vectors = np.linalg.eigh(cov)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def percentiles(draws: Array, level: float) -> Array:
    """Central interval (K, 2) of draws (n, K)."""
    tail = (1.0 - level) / 2.0
    return np.asarray(np.quantile(draws, [tail, 1.0 - tail], axis=0).T)
