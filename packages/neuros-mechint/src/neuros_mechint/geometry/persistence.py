"""Holes of a cloud of points, and the scales over which they last."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real, one_of
from neuros_mechint.geometry._persistence_extras import critical_lengths, landmarks, topology

__all__ = ["PersistenceResult", "PersistenceSignificance", "PersistentHomology"]

# Points up to which a dimension is exact within seconds.
_SIZES = {0: 2000, 1: 1000, 2: 300}


@dataclass(frozen=True)
class PersistenceResult:
    """Diagrams of one cloud; indexing gives the diagram of a dimension.

    Attributes:
        diagrams: Birth and death of every feature, one tensor (features, 2) per dimension; the
            death of the last component is inf.
        landmarks: Points that were used, or None for all.
        covering_radius: Largest distance of a point to the nearest of those; no value of a diagram
            is off by more than twice that.
    """

    diagrams: tuple[Tensor, ...]
    landmarks: Tensor | None
    covering_radius: float

    def __getitem__(self, dim: int) -> Tensor:
        return self.diagrams[dim]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.diagrams)

    def __len__(self) -> int:
        return len(self.diagrams)

    def betti(self, scale: Number) -> Tensor:
        """Number of features alive at a scale, (dimensions,)."""
        alive = [((d[:, 0] <= scale) & (d[:, 1] > scale)).sum() for d in self.diagrams]
        return torch.stack(alive)

    def entropy(self) -> Tensor:
        """Entropy of the finite lifetimes as shares of their sum, (dimensions,), in nats."""
        found = []
        for diagram in self.diagrams:
            life = _finite(diagram).diff(dim=1)[:, 0]
            share = life[life > 0] / life.sum()
            found.append(-(share * share.log()).sum())
        return torch.stack(found)

    def landscape(self, dim: int = 1, *, n_layers: int = 5, n_points: int = 100) -> Tensor:
        """Persistence landscape over the range of the finite features.

        Args:
            dim: Dimension.
            n_layers: Functions, largest first.
            n_points: Samples of each, from the earliest birth to the latest death.

        Returns:
            Values (n_layers, n_points); 0 beyond the number of features.
        """
        diagram = _finite(self.diagrams[dim])
        found = diagram.new_zeros(n_layers, n_points)
        if len(diagram):
            t = torch.linspace(0, 1, n_points, dtype=diagram.dtype)
            t = diagram[:, 0].min() + t * (diagram[:, 1].max() - diagram[:, 0].min())
            tent = torch.minimum(t - diagram[:, :1], diagram[:, 1:] - t).clamp(min=0)
            top = tent.sort(0, descending=True).values[:n_layers]
            found[: len(top)] = top
        return found

    def persistence_image(
        self, dim: int = 1, *, n_pixels: int = 20, sigma: Number | None = None
    ) -> Tensor:
        """Sum of Gaussians over birth and lifetime, each weighted by its lifetime.

        Args:
            dim: Dimension.
            n_pixels: Pixels along either axis, from 0 to the latest death.
            sigma: Width of the Gaussians; None takes two pixels.

        Returns:
            Density (birth, lifetime) of shape (n_pixels, n_pixels).
        """
        diagram = _finite(self.diagrams[dim])
        if not len(diagram):
            return diagram.new_zeros(n_pixels, n_pixels)
        pixel = float(diagram.max()) / n_pixels
        width = 2 * pixel if sigma is None else float(sigma)
        centre = (torch.arange(n_pixels, dtype=diagram.dtype) + 0.5) * pixel

        def bumps(at: Tensor) -> Tensor:
            z = (centre - at.unsqueeze(1)) / width
            return torch.exp(-z.square() / 2) / (width * math.sqrt(2 * math.pi))

        life = diagram[:, 1] - diagram[:, 0]
        image: Tensor = (life * bumps(diagram[:, 0]).T) @ bumps(life)
        return image

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a report; the infinite death is None."""
        rows = [
            [[b, d if math.isfinite(d) else None] for b, d in diagram.tolist()]
            for diagram in self.diagrams
        ]
        return {"diagrams": rows, "covering_radius": self.covering_radius}


@dataclass(frozen=True)
class PersistenceSignificance:
    """Features that are larger than the sampling error of the points.

    Attributes:
        radius: Half the width of the band, a Hausdorff distance.
        significant: Whether every feature lives longer than twice that, by dimension.
    """

    radius: float
    significant: tuple[Tensor, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a report."""
        return {"radius": self.radius, "n_significant": [int(s.sum()) for s in self.significant]}


class PersistentHomology:
    """Vietoris-Rips persistent homology, with ripser.

    Up to about 1000 points `max_dim=1` takes seconds, `max_dim=2` up to 300. Above that landmarks
    are chosen, each the farthest from those before, with a warning; the covering radius comes with
    the result. Needs `pip install neuros-mechint[topology]`.

    Args:
        max_dim: Highest dimension: 0 components, 1 loops, 2 voids.
        threshold: Largest scale; None has no limit.
        n_landmarks: Points used; None takes all up to the sizes above.
        metric: `"euclidean"`, or `"precomputed"` where a distance matrix is passed.
        coeff: Prime of the field.

    Examples:
        >>> t = torch.arange(20) * (2 * torch.pi / 20)
        >>> circle = torch.stack([t.cos(), t.sin()], 1)
        >>> loops = PersistentHomology().compute(circle)[1]
        >>> len(loops)
        1

    References:
        Tralie, Saul & Bar-On (2018). Ripser.py: a lean persistent homology library for Python.
        Journal of Open Source Software 3(29), 925. doi:10.21105/joss.00925

        Fasy et al. (2014). Confidence sets for persistence diagrams. Annals of Statistics 42, 2301.
        doi:10.1214/14-AOS1252

        Bubenik (2015). Statistical topological data analysis using persistence landscapes. Journal
        of Machine Learning Research 16, 77.

        Adams et al. (2017). Persistence images. Journal of Machine Learning Research 18(8), 1.
    """

    def __init__(
        self,
        *,
        max_dim: int = 1,
        threshold: Number | None = None,
        n_landmarks: int | None = None,
        metric: Literal["euclidean", "precomputed"] = "euclidean",
        coeff: int = 2,
    ) -> None:
        one_of("metric", metric, get_args(Literal["euclidean", "precomputed"]))
        if max_dim not in _SIZES:
            raise ValueError(f"max_dim must be 0, 1 or 2, got {max_dim}")
        if threshold is not None and threshold <= 0:
            raise ValueError(f"threshold must be positive or None, got {threshold}")
        if n_landmarks is not None and n_landmarks < 3:
            raise ValueError(f"n_landmarks must be at least 3 or None, got {n_landmarks}")
        if coeff < 2 or any(coeff % k == 0 for k in range(2, math.isqrt(coeff) + 1)):
            raise ValueError(f"coeff must be a prime, got {coeff}")
        self.max_dim = max_dim
        self.threshold = threshold
        self.n_landmarks = n_landmarks
        self.metric = metric
        self.coeff = coeff

    def __repr__(self) -> str:
        return (
            f"PersistentHomology(max_dim={self.max_dim}, threshold={self.threshold}, "
            f"n_landmarks={self.n_landmarks}, metric={self.metric!r}, coeff={self.coeff})"
        )

    def compute(self, x: Array) -> PersistenceResult:
        """Diagrams of one cloud.

        Args:
            x: Points (samples, features), or distances (samples, samples) for `"precomputed"`.

        Returns:
            One diagram per dimension, from 0 to `max_dim`.

        Raises:
            ImportError: When ripser is not installed.
            TypeError: When x is not a real tensor or array.
            ValueError: When x has another number of axes, or is no distance matrix.
        """
        gap, chosen, radius = self._distances(x)
        return PersistenceResult(tuple(self._diagrams(gap)), chosen, radius)

    def distance(
        self,
        first: Tensor,
        second: Tensor,
        metric: Literal["bottleneck", "wasserstein"] = "bottleneck",
    ) -> float:
        """Distance of two diagrams of one dimension, over their finite features, with persim.

        Args:
            first: Diagram, (features, 2).
            second: Diagram, (features, 2).
            metric: `"bottleneck"` or `"wasserstein"`.

        Returns:
            The distance.

        Raises:
            ImportError: When persim is not installed.
            ValueError: When the metric is not known.
        """
        one_of("metric", metric, ("bottleneck", "wasserstein"))
        sides = [
            _finite(as_real("diagram", d, finite=False, at_least=(0, 2))) for d in (first, second)
        ]
        measure = getattr(topology("persim"), metric)
        # persim warns of an empty diagram although it measures it; a point of the diagonal is none.
        padded = [d if len(d) else d.new_zeros(1, 2) for d in sides]
        return float(measure(*(d.detach().cpu().numpy() for d in padded)))

    def significance(
        self,
        x: Array,
        *,
        n_bootstrap: int = 200,
        level: Number = 0.05,
        generator: torch.Generator | None = None,
    ) -> PersistenceSignificance:
        """Which features stand out of a bootstrap band (Fasy 2014, subsampling).

        Parts of n / ln n points are drawn; the quantile 1 - level of their Hausdorff distances to
        all points bounds the error of a birth or death. With that the band is conservative.

        Args:
            x: Points (samples, features), or distances for `"precomputed"`.
            n_bootstrap: Draws.
            level: Share of draws beyond the band.
            generator: Source of the draws; None starts one from seed 0.

        Returns:
            The band, and the features outside it.

        Raises:
            ImportError: When ripser is not installed.
            ValueError: As for `compute`, or when a number is out of range.
        """
        if n_bootstrap < 1 or not 0 < level < 1:
            raise ValueError(
                f"n_bootstrap >= 1 and 0 < level < 1 are needed, got {n_bootstrap} and {level}"
            )
        gap, _, _ = self._distances(x)
        gap = gap.detach()
        source = torch.Generator().manual_seed(0) if generator is None else generator
        n = len(gap)
        size = max(2, int(n / math.log(n)))
        drawn = [
            gap[:, torch.randperm(n, generator=source)[:size]].min(1).values.max()
            for _ in range(n_bootstrap)
        ]
        radius = float(torch.stack(drawn).double().quantile(1 - float(level)))
        diagrams = self._diagrams(gap)
        kept = tuple(diagram[:, 1] - diagram[:, 0] > 2 * radius for diagram in diagrams)
        return PersistenceSignificance(radius, kept)

    def total_persistence(self, x: Array, dim: int = 1, *, power: Number = 1.0) -> Tensor:
        r"""Sum of the finite lifetimes to a power, with a gradient in the points.

        Args:
            x: Points (samples, features), or distances for `"precomputed"`.
            dim: Dimension, at most `max_dim`.
            power: Exponent of every lifetime.

        Returns:
            A scalar. Its gradient moves the ends of the edges where features are born and die.

        Raises:
            ImportError: When ripser is not installed.
            ValueError: As for `compute`, or when dim is above max_dim.
        """
        if not 0 <= dim <= self.max_dim:
            raise ValueError(f"dim must lie between 0 and max_dim = {self.max_dim}, got {dim}")
        gap, _, _ = self._distances(x)
        diagram = _finite(self._diagrams(gap)[dim])
        death = critical_lengths(gap, diagram[:, 1].to(gap))
        # Components are born at 0, which is no edge.
        birth = critical_lengths(gap, diagram[:, 0].to(gap)) if dim else torch.zeros_like(death)
        life = death - birth
        return life[life > 0].pow(float(power)).sum()

    def _distances(self, x: Array) -> tuple[Tensor, Tensor | None, float]:
        data = as_real("x", x, at_least=(3, 1))
        if data.ndim != 2:
            raise ValueError(f"x must be one cloud (samples, features), got {tuple(data.shape)}")
        if self.metric == "precomputed":
            gap = _checked(data)
        else:
            gap = torch.cdist(data, data, compute_mode="donot_use_mm_for_euclid_dist")
        n = self.n_landmarks
        if n is None and len(gap) > _SIZES[self.max_dim]:
            n = _SIZES[self.max_dim]
            warnings.warn(
                f"{len(gap)} points are too many for max_dim={self.max_dim}; {n} landmarks are "
                "used. Pass n_landmarks to choose how many",
                UserWarning,
                stacklevel=3,
            )
        if n is None or n >= len(gap):
            return gap, None, 0.0
        chosen, radius = landmarks(gap.detach(), n)
        return gap[chosen][:, chosen], chosen, radius

    def _diagrams(self, gap: Tensor) -> list[Tensor]:
        ripser = topology("ripser").ripser
        limit = math.inf if self.threshold is None else float(self.threshold)
        found = ripser(
            gap.detach().cpu().double().numpy(),
            maxdim=self.max_dim,
            thresh=limit,
            coeff=self.coeff,
            distance_matrix=True,
        )["dgms"]
        return [torch.as_tensor(np.asarray(d, dtype=np.float64)).to(gap) for d in found]


def _checked(gap: Tensor) -> Tensor:
    square = gap.shape[0] == gap.shape[1]
    if not square or not torch.equal(gap, gap.T) or bool((gap < 0).any() or gap.diagonal().any()):
        raise ValueError(
            "x must be a symmetric matrix of distances with a zero diagonal for "
            f"metric='precomputed', got shape {tuple(gap.shape)}"
        )
    return gap


def _finite(diagram: Tensor) -> Tensor:
    return diagram[torch.isfinite(diagram[:, 1])]
