r"""What the residual of a fit says: is the target a mixture, and are its sources told apart.

Under the hypothesis of a mixture the residual is noise, and $J = r^T \Omega r$ sums its squares
over the `rank` directions of the metric less one for each weight that was fitted (Hansen 1982,
doi:10.2307/1912775). An estimated, shrunk $\Omega$ gives those directions unequal variances, all
the more the smaller their eigenvalues; the target's own covariance, which had no part in
$\Omega$, measures them. `j_stat` is J moved and scaled to the mean and variance of its
chi-squared law.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from neuros_core.domains import MixtureDiagnosis
from neuros_sourceweigher._estimate import Matched
from neuros_sourceweigher._identification import Identification, Noise, identify
from neuros_sourceweigher._metric import Metric, covariance_metric
from neuros_sourceweigher._moments import Moments

__all__: list[str] = []

Array = NDArray[np.float64]

# The level below which the target counts as outside the hull of the sources.
_LEVEL = 0.01


def diagnose(matched: Matched, w: Array, *, test: bool) -> MixtureDiagnosis:
    """Describe the fit of weights `w` (K,).

    Args:
        matched: What was matched, in which metric.
        w: The weights.
        test: Whether the metric is efficient, so that J has a known law.
    """
    moments, metric, columns = matched
    found = _identified(matched, w, test=test)
    spread = _residual_cov(moments, metric, w) if test else None
    j_stat = dof = p_value = None
    if test:
        j_stat, dof = _hansen(columns, w, metric, spread)
        p_value = float(chdtrc(dof, j_stat)) if dof > 0 else None
    return MixtureDiagnosis(
        residual=_in_noise(moments, w),
        j_stat=j_stat,
        dof=dof,
        p_value=p_value,
        in_hull=None if p_value is None else p_value > _LEVEL,
        identifiable=found.identifiable,
        condition=found.condition,
        ambiguous=found.ambiguous,
    )


def _residual_cov(moments: Moments, metric: Metric, w: Array) -> Array | None:
    """Covariance (p, p) of the residual in the metric, measured on the target's own samples."""
    if moments.target.cov is None:
        return None
    total = moments.noise_of(np.square(w) / moments.counts)
    total += moments.cov(moments.target) / moments.target.n
    with np.errstate(over="ignore", invalid="ignore"):
        return metric.whiten_cov(total)


def _identified(matched: Matched, w: Array, *, test: bool) -> Identification:
    """Which sources are told apart, in the metric; beside the efficient one, in that of the noise.

    The efficient metric measures noise of the residual. Where a source has little weight its own
    noise is many times larger there, and would hide differences that are plain.
    """
    moments, metric, columns = matched
    K, names = len(moments.sources), [source.name for source in moments.sources]
    known = np.array([source.cov is not None for source in moments.sources])
    if not known.any():
        return identify(columns, w, Noise(np.zeros(K), 1.0), names)
    total = moments.noise_of(known / moments.counts)
    freedom = None
    if test:
        metric = covariance_metric(total, moments)
        columns = metric.whiten(moments.columns)
    else:
        unit = metric.whiten_cov(total)
        square = float(np.vdot(unit, unit))
        freedom = float(np.trace(unit)) ** 2 / square if square > 0 else 1.0
    traces = metric.traces_of(
        moments.cov(source) if kept else None
        for source, kept in zip(moments.sources, known, strict=True)
    )
    squared = np.array(traces) / moments.counts
    return identify(columns, w, Noise(squared, freedom), names)


def _hansen(columns: Array, w: Array, metric: Metric, spread: Array | None) -> tuple[float, int]:
    """J and its degrees of freedom, (j_stat, dof)."""
    support = np.flatnonzero(w > 0)
    residual = columns[:, support] @ w[support]
    dof = metric.rank - len(support) + 1
    if dof <= 0:
        return 0.0, 0
    # Without a ridge the residual has no part along the fitted directions; a ridge adds one that
    # is no sign of a foreign target.
    tangent = columns[:, support[1:]] - columns[:, support[:1]]
    U = np.linalg.qr(tangent)[0]
    residual = residual - U @ (U.T @ residual)
    J = float(residual @ residual)
    if spread is None:
        return J, dof
    # Covariance of what is left: V = (I - U U^T) C (I - U U^T).
    with np.errstate(over="ignore", invalid="ignore"):
        CU = spread @ U
        inner = U.T @ CU
        mean = float(np.trace(spread) - np.trace(inner))
        square = float(np.vdot(spread, spread) - 2 * np.vdot(CU, CU) + np.vdot(inner, inner))
    if not np.isfinite(square):
        # The target's own noise is beyond all bounds beside that of the mixture.
        return 0.0, dof
    if not mean > 0 or not square > 0:
        return J, dof
    # By Cauchy-Schwarz mean <= sqrt(dof * square), so the result is not negative.
    return max(dof + (J - mean) * float(np.sqrt(dof / square)), 0.0), dof


def _in_noise(moments: Moments, w: Array) -> float | None:
    """Length of the residual over the standard error of the target's mean, sqrt(tr(cov) / n)."""
    if moments.target.cov is None:
        return None
    # Rounding may leave a variance of products below zero.
    variance = max(float(np.trace(moments.cov(moments.target))), 0.0)
    noise = float(np.sqrt(variance / moments.target.n))
    return float(np.linalg.norm(moments.columns @ w)) / noise if noise > 0 else None
