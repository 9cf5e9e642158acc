"""The moments that are matched: means of features, and their sampling noise, target at the origin.

Everything downstream needs only differences to the target, which keep the digits that a common
offset would cost.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuros_core.domains import DomainStatistics
from neuros_core.errors import check_unique
from neuros_sourceweigher._quadratic import MAX_DIM, quadratic_cov, quadratic_mean

__all__: list[str] = []

Array = NDArray[np.float64]

# Moments up to this size have products and squares that are finite, with room for sums.
_LARGEST = 1e140


class Moments(NamedTuple):
    """Feature means of K sources minus those of the target, and what is known of their noise."""

    sources: tuple[DomainStatistics, ...]
    target: DomainStatistics
    columns: Array  # (p, K)
    origin: Array | None  # (d,) of quadratic features; None where the features are matched as is

    def cov(self, domain: DomainStatistics) -> Array:
        """Covariance (p, p) of the matched features within one domain."""
        if domain.cov is None:
            raise ValueError(
                f"domain {domain.name!r} needs a covariance here, got none (n={domain.n}); build "
                "it by DomainStatistics.from_samples from two or more samples, or use "
                "metric='identity' with moments='mean'"
            )
        if self.origin is None:
            return domain.cov
        return quadratic_cov(domain.mean - self.origin, domain.cov)

    def noise_of(self, shares: Iterable[float]) -> Array:
        """Sum over sources of `share * cov`, where the share is not zero; (p, p)."""
        p = len(self.columns)
        total = np.zeros((p, p))
        scaled = np.empty((p, p))
        for share, source in zip(shares, self.sources, strict=True):
            if share:
                total += np.multiply(self.cov(source), share, out=scaled)
        return total

    @property
    def counts(self) -> Array:
        """Samples behind each source, (K,)."""
        return np.array([float(source.n) for source in self.sources])


def gather(
    sources: Sequence[DomainStatistics], target: DomainStatistics, moments: str, metric: str
) -> Moments:
    """Check the domains and reduce them to the moments that are matched.

    Args:
        sources: The K sources.
        target: The domain to explain.
        moments: `"mean"` or `"mean+cov"`.
        metric: The efficient metric does not depend on the origin of quadratic features, so it is
            put where the numbers are small.
    """
    check_domains(sources, target)
    _check_size((*sources, target), _LARGEST if moments == "mean" else _LARGEST**0.5)
    if moments == "mean":
        columns = np.stack([source.mean - target.mean for source in sources], axis=1)
        return Moments(tuple(sources), target, columns, None)
    if target.d > MAX_DIM:
        raise ValueError(
            f"moments='mean+cov' needs at most {MAX_DIM} features, got d={target.d}; match the "
            "means of a RandomFourierMap instead"
        )
    origin = target.mean if metric == "efficient" else np.zeros(target.d)
    part = Moments(tuple(sources), target, np.empty((0, 0)), None)
    goal = quadratic_mean(target.mean - origin, part.cov(target))
    raw = [quadratic_mean(source.mean - origin, part.cov(source)) for source in sources]
    return part._replace(columns=np.stack([r - goal for r in raw], axis=1), origin=origin)


def check_domains(sources: Sequence[DomainStatistics], target: DomainStatistics) -> None:
    """Raise unless the sources are at least one, named once and in the space of the target."""
    if not sources:
        raise ValueError("sources needs at least one domain, got none")
    check_unique("sources", [source.name for source in sources])
    for source in sources:
        if (source.space, source.d) != (target.space, target.d):
            raise ValueError(
                f"source {source.name!r} needs the feature space of target {target.name!r}, "
                f"{target.space!r} with d={target.d}, got {source.space!r} with d={source.d}"
            )


def _check_size(domains: Sequence[DomainStatistics], largest: float) -> None:
    for domain in domains:
        size = float(np.abs(domain.mean).max(initial=0.0))
        if domain.cov is not None:
            size = max(size, float(domain.cov.diagonal().max(initial=0.0)))
        if size > largest:
            raise ValueError(
                f"domain {domain.name!r} needs moments up to {largest:.0e}, got {size:.3g}; "
                "rescale the features"
            )
