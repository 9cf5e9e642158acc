"""Weights of source domains whose mixture matches the moments of a target domain."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuros_core.domains import DomainStatistics, MixtureDiagnosis, SourceWeights
from neuros_core.errors import check_choice, check_unique
from neuros_sourceweigher._identification import identify
from neuros_sourceweigher.simplex import solve_simplex_ls, solve_simplex_ls_batched

__all__ = ["SourceWeigher"]

Array = NDArray[np.float64]


class SourceWeigher:
    r"""Mixture weights by moment matching, with a certified optimum.

    Minimises $\|\sum_k w_k m_k - t\|^2 + \rho \|w - w_0\|^2$ over the simplex, where $m_k$ are the
    feature means of the sources and $t$ that of the target. Means are blind to sources of equal
    mean; the diagnosis then says `identifiable=False` and names the group.

    Args:
        moments: `"mean"`: feature means.
        metric: `"identity"`: every feature counts as it is scaled.
        ridge: $\rho \ge 0$, the pull towards the prior.
        prior: (K,) $w_0$ in the order of the sources; uniform when None. Without a ridge it only
            decides between equally good weights.

    Raises:
        ValueError: For another `moments` or `metric`, or a negative ridge.

    Examples:
        >>> sources = [
        ...     DomainStatistics("quiet", 500, [0.0, 0.0]),
        ...     DomainStatistics("reach", 500, [4.0, 0.0]),
        ...     DomainStatistics("grasp", 500, [0.0, 4.0]),
        ... ]
        >>> weights = SourceWeigher().fit(sources, DomainStatistics("today", 80, [1.0, 2.0]))
        >>> {name: round(w, 12) for name, w in weights.as_dict().items()}
        {'quiet': 0.25, 'reach': 0.25, 'grasp': 0.5}
        >>> weights.diagnosis.identifiable
        True

    References:
        Gretton et al. 2009, Covariate Shift by Kernel Mean Matching (the identity metric),
        doi:10.7551/mitpress/9780262170055.003.0008.
    """

    def __init__(
        self,
        *,
        moments: str = "mean",
        metric: str = "identity",
        ridge: float = 0.0,
        prior: Sequence[float] | Array | None = None,
    ) -> None:
        check_choice("moments", moments, ("mean",))
        check_choice("metric", metric, ("identity",))
        if not 0 <= ridge < np.inf:
            raise ValueError(f"ridge needs a finite number >= 0, got {ridge!r}")
        self.moments = moments
        self.metric = metric
        self.ridge = float(ridge)
        self.prior = None if prior is None else tuple(float(p) for p in prior)

    def __repr__(self) -> str:
        return (
            f"SourceWeigher(moments={self.moments!r}, metric={self.metric!r}, "
            f"ridge={self.ridge!r}, prior={self.prior!r})"
        )

    def fit(self, sources: Sequence[DomainStatistics], target: DomainStatistics) -> SourceWeights:
        """Estimate the weights of `sources` that explain `target`.

        The diagnosis holds what the identity metric can say: `residual`, the distance of mixture
        and target divided by the standard error of the target's mean (None when the target has no
        `cov`), `condition`, `identifiable` and `ambiguous`. The test of the mixture hypothesis
        (`j_stat`, `dof`, `p_value`, `in_hull`) needs the efficient metric and stays None.

        Args:
            sources: At least one, with unique names and all in the feature space of the target.
            target: The domain to explain.

        Returns:
            Weights in the order of `sources`; `objective` is the minimised function above and
            `gap` bounds its distance from the optimum.

        Raises:
            ValueError: Without sources, for repeated names, or when feature spaces differ.
            RuntimeError: When the solver cannot certify its result.
        """
        _check_domains(sources, target)
        means = np.stack([source.mean for source in sources], axis=1)
        solution = solve_simplex_ls(means, target.mean, ridge=self.ridge, prior=self.prior)
        w = solution.weights
        found = identify([s for s, share in zip(sources, w, strict=True) if share > 0])
        residual = means @ w - target.mean
        diagnosis = MixtureDiagnosis(
            residual=_in_noise(residual, target),
            identifiable=found.identifiable,
            condition=found.condition,
            ambiguous=found.ambiguous,
        )
        return SourceWeights(
            names=tuple(source.name for source in sources),
            weights=w,
            method="moment-matching",
            # The solver minimises half of the function above.
            objective=2 * solution.objective,
            gap=2 * solution.gap,
            diagnosis=diagnosis,
            meta={
                "moments": self.moments,
                "metric": self.metric,
                "ridge": self.ridge,
                "space": target.space,
                "unique": solution.unique,
            },
        )

    def compute(self, source_means: ArrayLike, target_mean: ArrayLike) -> Array:
        """Estimate weights from arrays, for many targets or sets of sources at once.

        Args:
            source_means: (..., K, p) feature means of the sources.
            target_mean: (..., p) feature means of the targets; leading axes broadcast.

        Returns:
            (..., K) weights, each certified to 1e-12.

        Raises:
            ValueError: When the shapes do not fit or a value is not finite.
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
        lead = np.broadcast_shapes(means.shape[:-2], targets.shape[:-1])
        K, p = means.shape[-2:]
        A = np.broadcast_to(means, (*lead, K, p)).reshape(-1, K, p).transpose(0, 2, 1)
        c = np.broadcast_to(targets, (*lead, p)).reshape(-1, p)
        batch = solve_simplex_ls_batched(A, c, ridge=self.ridge, prior=self.prior)
        return batch.weights.reshape(*lead, K)


def _check_domains(sources: Sequence[DomainStatistics], target: DomainStatistics) -> None:
    if not sources:
        raise ValueError("sources needs at least one domain, got none")
    check_unique("sources", [source.name for source in sources])
    for source in sources:
        if (source.space, source.d) != (target.space, target.d):
            raise ValueError(
                f"source {source.name!r} needs the feature space of target {target.name!r}, "
                f"{target.space!r} with d={target.d}, got {source.space!r} with d={source.d}"
            )


def _in_noise(residual: Array, target: DomainStatistics) -> float | None:
    """Length of the residual over the standard error of the target's mean, sqrt(tr(cov) / n)."""
    if target.cov is None:
        return None
    noise = float(np.sqrt(np.trace(target.cov) / target.n))
    return float(np.linalg.norm(residual)) / noise if noise > 0 else None
