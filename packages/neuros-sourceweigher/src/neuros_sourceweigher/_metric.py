r"""Metrics of moment matching: what a difference of features counts, given their noise.

The efficient metric is the inverse of $S = S_w / n_t + \sum_k w_k^2 S_k / n_k$, the covariance of
mixture minus target, where $S_w$ is the covariance that the mixture implies for the target (Hansen
1982). Taking the target's own instead would let a foreign target widen its own tolerance.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack, solve_triangular

from neuros_sourceweigher._moments import Moments

__all__: list[str] = []

Array = NDArray[np.float64]

# Variance of a feature that its domains say is constant, relative to its squared spread between
# them: half of the digits of a float, so that exact features dominate but stay computable.
_EXACT = 1e-14
# Relative eigenvalue below which a direction has no noise of its own.
_RANK = 1e-10


class Metric(NamedTuple):
    """A linear map after which features have unit noise and count alike."""

    scale: Array  # (p,) each feature's unit
    factor: Array | None  # (p, p) lower Cholesky factor; None: no rotation
    frame: Array | None  # (p, p) rows of the map where a Cholesky factor does not exist
    rank: int
    shrinkage: float

    def whiten(self, x: Array) -> Array:
        """Map features (p, m)."""
        unit = x / self.scale[:, None]
        if self.frame is not None:
            return self.frame @ unit
        if self.factor is None:
            return unit
        # scipy-stubs and LAPACK agree on float64; overwriting spares a copy of `unit`.
        return np.asarray(
            solve_triangular(self.factor, unit, lower=True, overwrite_b=True, check_finite=False)
        )

    def whiten_cov(self, cov: Array) -> Array:
        """Map a covariance (p, p) of features."""
        unit = cov / self.scale[:, None]
        unit /= self.scale
        if self.frame is not None:
            return np.asarray(self.frame @ unit @ self.frame.T)
        if self.factor is None:
            return unit
        lower = np.asarray(lapack.dsygst(unit, self.factor, lower=1)[0])
        mapped = np.tril(lower)
        mapped += np.tril(lower, -1).T
        return mapped

    def traces_of(self, covs: Iterable[Array | None]) -> list[float]:
        """Traces of `whiten_cov` of each covariance (p, p), zero for None."""
        unit = float(self.scale.max(initial=0.0)) or 1.0
        # Relative to the largest unit, so that features near 1e-160 do not overflow.
        scale = self.scale / unit
        with np.errstate(over="ignore"):
            omega = self._inverse()
            if omega is None:
                weights = 1.0 / np.square(scale)
            else:
                weights = omega / scale[:, None]
                weights /= scale
            traces = []
            for cov in covs:
                part = cov if cov is None or omega is not None else cov.diagonal()
                trace = 0.0 if part is None else float(np.vdot(weights, part)) / unit / unit
                traces.append(max(trace, 0.0))
        return traces

    def _inverse(self) -> Array | None:
        """Inverse (p, p) in the units of `scale`; None where it is the identity."""
        if self.frame is not None:
            return np.asarray(self.frame.T @ self.frame)
        if self.factor is None:
            return None
        lower = np.asarray(lapack.dpotri(self.factor, lower=1)[0])
        omega = np.tril(lower)
        omega += np.tril(lower, -1).T
        return np.asarray(omega)


def identity_metric(p: int) -> Metric:
    """Every feature counts as it is scaled."""
    return Metric(np.ones(p), None, None, p, 0.0)


def diagonal_metric(moments: Moments) -> Metric:
    """Every feature counts by its variance within domains, pooled by samples."""
    domains = (*moments.sources, moments.target)
    n = np.array([float(domain.n) for domain in domains])
    variance = np.zeros(len(moments.columns))
    for share, domain in zip(n / n.sum(), domains, strict=True):
        variance += share * moments.cov(domain).diagonal()
    scale, p = _unit(variance, moments), len(variance)
    return Metric(scale, None, None, p, 0.0)


def efficient_metric(moments: Moments, w: Array, shrinkage: float | None) -> Metric:
    """Compute the inverse covariance of mixture minus target at weights `w` (K,).

    Args:
        moments: What is matched; every source with a covariance.
        w: The weights so far.
        shrinkage: Share of the diagonal in [0, 1]; None: estimated (Schaefer & Strimmer 2005).
    """
    n, n_target = moments.counts, float(moments.target.n)
    shares = w / n_target + np.square(w) / n
    S = moments.noise_of(shares)
    mean = moments.columns @ w
    S += ((moments.columns * w) @ moments.columns.T - np.outer(mean, mean)) / n_target
    freedom = shares.sum() ** 2 / (np.square(shares) / np.maximum(n - 1, 1)).sum()
    return _shrunk(S, moments, shrinkage, float(freedom))


def covariance_metric(cov: Array, moments: Moments) -> Metric:
    """Compute the inverse of `cov` (p, p), the summed sampling noise of all sources."""
    return _shrunk(cov, moments, None, float((moments.counts - 1).clip(min=1).sum()))


def _shrunk(S: Array, moments: Moments, shrinkage: float | None, freedom: float) -> Metric:
    """Compute the inverse of `S`, which is overwritten, with its correlations shrunk."""
    scale = _unit(S.diagonal(), moments)
    S /= scale[:, None]
    S /= scale
    if shrinkage is None:
        shrinkage = _shrinkage(S, freedom)
    S *= 1.0 - shrinkage
    S[np.diag_indices_from(S)] += shrinkage
    return _factored(S, scale, shrinkage)


def _unit(variance: Array, moments: Moments) -> Array:
    """Standard deviation (p,) of each feature, one for a feature that never differs."""
    spread = np.square(moments.columns).max(axis=1)
    floored = np.maximum(variance, 0.0) + _EXACT * spread
    return np.sqrt(np.where(floored > 0, floored, 1.0))


def _shrinkage(R: Array, n: float) -> float:
    r"""Share of the diagonal that a correlation matrix estimated from `n` samples needs.

    The estimate of Schaefer & Strimmer 2005 (doi:10.2202/1544-6115.1175),
    $\sum \mathrm{Var}(r_{ij}) / \sum r_{ij}^2$ over the off-diagonal, with the large-sample
    variance $(1 - r^2)^2 / n$ of a correlation.
    """
    p = len(R)
    squares = np.square(R)
    signal = float(squares.sum() - squares.diagonal().sum())
    if signal <= 0:
        return 1.0
    np.subtract(1.0, squares, out=squares)
    noise = float(np.vdot(squares, squares)) - float(np.square(squares.diagonal()).sum())
    return min(1.0, noise / (n * signal)) if p > 1 else 0.0


def _factored(R: Array, scale: Array, shrinkage: float) -> Metric:
    factor, failed = lapack.dpotrf(R, lower=1, clean=1)
    if not failed and factor.diagonal().min(initial=1.0) ** 2 > _RANK:
        return Metric(scale, np.asarray(factor), None, len(R), shrinkage)
    # A direction without noise is matched first instead of being dropped: features that are
    # constant in every domain tell sources apart best.
    values, vectors = np.linalg.eigh(R)
    floor = _RANK * max(float(values[-1]), 1.0)
    frame = (vectors / np.sqrt(np.maximum(values, floor))).T
    rank = int(np.count_nonzero(values > floor))
    return Metric(scale, None, np.ascontiguousarray(frame), rank, shrinkage)
