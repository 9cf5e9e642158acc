"""Weights of source domains whose mixture matches the moments of a target domain."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuros_core.domains import DomainStatistics, SourceWeights
from neuros_core.errors import check_finite
from neuros_sourceweigher._diagnosis import diagnose
from neuros_sourceweigher._estimate import Matched, Matching, match, read_number, solve
from neuros_sourceweigher._moments import gather
from neuros_sourceweigher._path import trace_path
from neuros_sourceweigher._resample import percentiles, resampled_weights
from neuros_sourceweigher.simplex import solve_simplex_ls_batched

__all__: list[str] = []

Array = NDArray[np.float64]

_FOLDS = 5


class SourceWeigher:
    r"""Mixture weights by moment matching, with a certified optimum and a test of the mixture.

    Minimises $(\sum_k w_k m_k - t)^T \Omega\,(\sum_k w_k m_k - t) + \rho \|w - w_0\|^2$ over the
    simplex, where $m_k$ are the feature means of the sources and $t$ that of the target. Pass
    statistics in the space of a feature map (`neuros_sourceweigher.features`) to match more than
    means.

    Args:
        moments: `"mean"`: feature means. `"mean+cov"`: means and raw second moments, built from
            `mean` and `cov`. Their noise is taken to be that of normal features: heavy tails then
            make intervals too narrow and `in_hull` False for true mixtures. Statistics in the
            space of a `QuadraticMap` measure that noise.
        metric: $\Omega$. `"identity"`: every feature counts as it is scaled. `"diagonal"`: by its
            variance. `"efficient"`: the inverse covariance of mixture minus target, the two-step
            generalised method of moments; it needs `cov` of every source.
        shrinkage: Share of the diagonal in the efficient metric, in [0, 1], or `"auto"`.
        ridge: $\rho \ge 0$, the pull towards the prior in the unit of the metric; `"auto"` takes
            the best of `regularization_path`.
        prior: (K,) $w_0$ in the order of the sources; uniform when None. Without a ridge it only
            decides between equally good weights.
        n_bootstrap: Replicates of a parametric bootstrap of the means, for `stderr` and
            `interval`; needs `cov` of every domain.
        level: Coverage of the interval.
        seed: Of the bootstrap and of the folds of `ridge="auto"`.

    Raises:
        ValueError: For a setting out of its range.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> centres = {"quiet": [0, 0, 0], "reach": [3, 0, 0], "grasp": [0, 3, 0]}
        >>> sources = [
        ...     DomainStatistics.from_samples(rng.normal(size=(4000, 3)) + c, name=name)
        ...     for name, c in centres.items()
        ... ]
        >>> today = rng.normal(size=(4000, 3)) + np.repeat([[0, 0, 0], [0, 3, 0]], 2000, axis=0)
        >>> target = DomainStatistics.from_samples(today, name="today")
        >>> weights = SourceWeigher().fit(sources, target)
        >>> {name: round(w, 1) for name, w in weights.as_dict().items()}
        {'quiet': 0.5, 'reach': 0.0, 'grasp': 0.5}
        >>> weights.diagnosis.identifiable, weights.diagnosis.in_hull
        (True, True)
        >>> foreign = DomainStatistics.from_samples(today + [0, 0, 1], name="tomorrow")
        >>> SourceWeigher().fit(sources, foreign).diagnosis.in_hull
        False

    References:
        Hansen 1982, Econometrica, doi:10.2307/1912775 (efficient metric, J test).
        Gretton et al. 2009, Covariate Shift by Kernel Mean Matching (the identity metric),
        doi:10.7551/mitpress/9780262170055.003.0008.
    """

    def __init__(
        self,
        *,
        moments: str = "mean",
        metric: str = "efficient",
        shrinkage: float | str = "auto",
        ridge: float | str = 0.0,
        prior: Sequence[float] | Array | None = None,
        n_bootstrap: int = 0,
        level: float = 0.95,
        seed: int = 0,
    ) -> None:
        self._how = Matching.read(moments, metric, shrinkage)
        self._ridge = read_number("ridge", ridge, np.inf)
        self.moments = moments
        self.metric = metric
        self.shrinkage = shrinkage
        self.ridge = ridge
        self.prior = None if prior is None else tuple(float(p) for p in prior)
        if n_bootstrap < 0 or n_bootstrap == 1:
            raise ValueError(f"n_bootstrap needs 0 or a number >= 2, got {n_bootstrap!r}")
        if not 0 < level < 1:
            raise ValueError(f"level needs a number between 0 and 1, got {level!r}")
        self.n_bootstrap = int(n_bootstrap)
        self.level = float(level)
        self.seed = int(seed)

    def __repr__(self) -> str:
        return (
            f"SourceWeigher(moments={self.moments!r}, metric={self.metric!r}, "
            f"shrinkage={self.shrinkage!r}, ridge={self.ridge!r}, prior={self.prior!r}, "
            f"n_bootstrap={self.n_bootstrap!r}, level={self.level!r}, seed={self.seed!r})"
        )

    def fit(
        self,
        sources: Sequence[DomainStatistics],
        target: DomainStatistics,
        *,
        quality: Mapping[str, float] | None = None,
    ) -> SourceWeights:
        """Estimate the weights of `sources` that explain `target`.

        The diagnosis holds `residual`, the distance of mixture and target divided by the standard
        error of the target's mean (None when the target has no `cov`), `condition`, `identifiable`
        and `ambiguous`. With the efficient metric it also tests whether the target is a mixture:
        `j_stat` follows a chi-squared law with `dof` degrees of freedom if it is, `in_hull` is
        `p_value > 0.01`; all None where there are no more features than weights.

        Args:
            sources: At least one, with unique names and all in the feature space of the target.
            target: The domain to explain.
            quality: Share in [0, 1] of each source that is fit for use (channels present, windows
                free of artefacts); it scales the prior. A source without one counts 1.

        Returns:
            Weights in the order of `sources`; `objective` is the minimised function above and
            `gap` bounds its distance from the optimum.

        Raises:
            ValueError: Without sources, for repeated names, when feature spaces differ, or when a
                domain lacks a covariance that the metric, the moments or the bootstrap need.
            RuntimeError: When the solver cannot certify its result.
        """
        moments = gather(sources, target, self.moments, self.metric)
        prior = self._prior_of([source.name for source in sources], quality)
        matched = match(moments, self._how, prior)
        ridge, path = self._ridge_of(matched, prior)
        solution = solve(matched.columns, ridge, prior)
        stderr = interval = None
        if self.n_bootstrap:
            rng = np.random.default_rng(self.seed)
            draws = resampled_weights(matched, ridge, prior, self.n_bootstrap, rng)
            stderr, interval = draws.std(axis=0, ddof=1), percentiles(draws, self.level)
        return SourceWeights(
            names=tuple(source.name for source in sources),
            weights=solution.weights,
            method="moment-matching",
            # The solver minimises half of the function above.
            objective=2 * solution.objective,
            gap=2 * solution.gap,
            stderr=stderr,
            interval=interval,
            diagnosis=diagnose(matched, solution.weights, test=self.metric == "efficient"),
            meta={
                "moments": self.moments,
                "metric": self.metric,
                "shrinkage": matched.metric.shrinkage,
                "ridge": ridge,
                "space": target.space,
                "unique": solution.unique,
                **path,
            },
        )

    def _prior_of(self, names: Sequence[str], quality: Mapping[str, float] | None) -> Array | None:
        """Return the prior (K,) scaled by quality, with its sum kept; None for a uniform one."""
        prior = None if self.prior is None else np.array(self.prior)
        if prior is not None and len(prior) != len(names):
            raise ValueError(f"prior needs one entry per source = {len(names)}, got {len(prior)}")
        if quality is None:
            return prior
        unknown = sorted(quality.keys() - set(names))
        if unknown:
            raise ValueError(f"quality needs names of sources {list(names)}, got {unknown}")
        share = np.array([float(quality.get(name, 1.0)) for name in names])
        if not ((share >= 0) & (share <= 1)).all():
            raise ValueError(f"quality needs shares in [0, 1], got {dict(quality)}")
        whole = np.full(len(names), 1 / len(names)) if prior is None else prior
        scaled = whole * share
        if not scaled.sum() > 0:
            raise ValueError(
                "quality needs a source above 0 that the prior does not exclude, got "
                f"{dict(quality)}"
            )
        return np.asarray(scaled * (whole.sum() / scaled.sum()))

    def _ridge_of(self, matched: Matched, prior: Array | None) -> tuple[float, dict[str, object]]:
        """Return the ridge, and the path that chose it as an entry of `meta`."""
        if self._ridge is not None:
            return self._ridge, {}
        path = trace_path(matched, prior, None, _FOLDS, self.seed)
        shown = {"ridges": path.ridges.tolist(), "discrepancy": path.discrepancy.tolist()}
        return path.best, {"path": shown | {"stderr": path.stderr.tolist()}}

    def compute(
        self,
        source_means: ArrayLike,
        target_mean: ArrayLike,
        *,
        metric_matrix: ArrayLike | None = None,
    ) -> Array:
        r"""Estimate weights from arrays, for many targets or sets of sources at once.

        Arrays carry no covariance, so the metric is the identity unless `metric_matrix` is given.

        Args:
            source_means: (..., K, p) feature means of the sources.
            target_mean: (..., p) feature means of the targets; leading axes broadcast.
            metric_matrix: (p, p) symmetric positive definite $\Omega$.

        Returns:
            (..., K) weights, each certified to 1e-12.

        Raises:
            ValueError: When the shapes do not fit, a value is not finite, the metric is not
                positive definite, or the weigher has `ridge="auto"`.
            RuntimeError: When the solver cannot certify a result.

        Examples:
            >>> SourceWeigher().compute([[0.0], [1.0]], [[0.25], [3.0]])
            array([[0.75, 0.25],
                   [0.  , 1.  ]])
        """
        means, targets = np.asarray(source_means), np.asarray(target_mean)
        if means.ndim < 2 or targets.ndim < 1 or means.shape[-1] != targets.shape[-1]:
            raise ValueError(
                "source_means needs shape (..., K, p) and target_mean (..., p), "
                f"got {means.shape} and {targets.shape}"
            )
        if self._ridge is None:
            raise ValueError("compute needs a number as ridge, got 'auto'; arrays have no folds")
        lead = np.broadcast_shapes(means.shape[:-2], targets.shape[:-1])
        K, p = means.shape[-2:]
        check_finite("source_means", means)
        check_finite("target_mean", targets)
        columns = np.broadcast_to(means - targets[..., None, :], (*lead, K, p)).reshape(-1, K, p)
        if metric_matrix is not None:
            columns = columns @ _root(metric_matrix, p)
        batch = solve_simplex_ls_batched(
            columns.transpose(0, 2, 1),
            np.zeros((len(columns), p)),
            ridge=self._ridge,
            prior=self.prior,
        )
        return batch.weights.reshape(*lead, K)


def _root(metric_matrix: ArrayLike, p: int) -> Array:
    r"""Lower L with L L^T the metric."""
    omega = np.asarray(metric_matrix, dtype=np.float64)
    if omega.shape != (p, p):
        raise ValueError(f"metric_matrix needs shape {(p, p)}, got {omega.shape}")
    check_finite("metric_matrix", omega)
    if np.abs(omega - omega.T).max(initial=0.0) > 1e-8 * np.abs(omega).max(initial=0.0):
        raise ValueError("metric_matrix needs a symmetric matrix, got one that is not")
    try:
        return np.asarray(np.linalg.cholesky(omega))
    except np.linalg.LinAlgError:
        smallest = float(np.linalg.eigvalsh(omega)[0])
        raise ValueError(
            f"metric_matrix needs eigenvalues > 0, got {smallest:.6g}; add a small ridge to it"
        ) from None
