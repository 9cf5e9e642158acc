"""How many dimensions a cloud of points has."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real, one_of
from neuros_mechint.geometry._neighbours import nearest

__all__ = ["DimensionCurve", "IntrinsicDimension", "ParticipationRatio"]

Method = Literal["twonn", "mle", "pca", "correlation"]
# Eigenvalues below this share of the largest are noise (Fukunaga & Olsen 1971).
_SHARE = 0.05


class ParticipationRatio:
    r"""Participation ratio $(\sum_i \lambda_i)^2 / \sum_i \lambda_i^2$ of the covariance.

    It is k for k directions of equal variance. From few samples the plain ratio is too low;
    `unbiased` replaces numerator and denominator by unbiased estimates, exact for Gaussian data.

    Args:
        unbiased: Whether the effect of few samples is taken away.

    Examples:
        >>> x = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
        >>> float(ParticipationRatio().compute(x))
        2.0

    References:
        Gao et al. (2017). A theory of multineuronal dimensionality, dynamics and measurement.
        doi:10.1101/214262
    """

    def __init__(self, *, unbiased: bool = False) -> None:
        self.unbiased = unbiased

    def __repr__(self) -> str:
        return f"ParticipationRatio(unbiased={self.unbiased})"

    def compute(self, x: Array) -> Tensor:
        """Participation ratio.

        Args:
            x: Points, (..., samples, features).

        Returns:
            One value per batch item, (...); with `unbiased` inf or negative where few samples
            leave nothing of the denominator.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When all points of an item are equal, or fewer than 3 for `unbiased`.
        """
        data = as_real("x", x, at_least=(3 if self.unbiased else 2, 1))
        data = data - data.mean(-2, keepdim=True)
        n, d = data.shape[-2:]
        size = data.abs().flatten(-2).amax(-1)[..., None, None]
        if bool((size == 0).any()):
            raise ValueError("x holds points that are all equal; they have no dimension")
        data = data / size
        gram = data.mT @ data if d < n else data @ data.mT
        first = gram.diagonal(dim1=-2, dim2=-1).sum(-1).square()
        second = gram.square().sum((-2, -1))
        if self.unbiased:
            # Moments of a Wishart matrix with v = n - 1: E tr(S)^2 = A + 2 B / v and
            # E tr(S^2) = B (1 + 1 / v) + A / v, solved for A = tr(C)^2 and B = tr(C^2).
            v = n - 1
            second = (second - first / v) * (v**2 / ((v - 1) * (v + 2)))
            first = first - 2 / v * second
        return first / second


@dataclass(frozen=True)
class DimensionCurve:
    """Dimension against scale.

    Attributes:
        n_points: Size of the parts, largest first, (sizes,).
        scale: Mean distance to the nearest neighbour in them, (sizes,).
        dimension: Mean dimension over the parts, (sizes,).
    """

    n_points: Tensor
    scale: Tensor
    dimension: Tensor

    @property
    def plateau(self) -> float:
        """Dimension where the curve is flattest: mean of the two neighbouring sizes closest."""
        if len(self.dimension) == 1:
            return float(self.dimension[0])
        k = int(self.dimension.log().diff().abs().argmin())
        return float(self.dimension[k : k + 2].mean())

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a report."""
        return {
            "n_points": self.n_points.tolist(),
            "scale": self.scale.tolist(),
            "dimension": self.dimension.tolist(),
            "plateau": self.plateau,
        }


class IntrinsicDimension:
    r"""Dimension of the manifold that points lie on.

    - `"twonn"`: from the ratio $\mu = r_2 / r_1$ of the distances to the two nearest neighbours.
      `estimator="ml"`: $(N - 1) / \sum \ln\mu$; `"fit"`: slope of $-\ln(1 - F(\mu))$ on $\ln\mu$
      without the largest `discard` of the ratios (Facco 2017).
    - `"mle"`: Levina and Bickel over `k` neighbours. `.local` divides by $k - 2$, which makes it
      unbiased; `.compute` is the harmonic mean of the form with $k - 1$ (MacKay and Ghahramani),
      because the inverse of that one is what is unbiased. The harmonic mean of the form with
      $k - 2$ would be low by a share of $1 / (k - 1)$.
    - `"correlation"`: slope of the correlation sum between the median distances to the neighbours
      $k / 2$ and $k$ (Grassberger and Procaccia).
    - `"pca"`: eigenvalues above 5 % of the largest. It counts the linear span.

    Above about ten dimensions all neighbour methods underestimate: a thousand points of a sphere of
    nine give 8 to 9. Duplicates are removed with a warning.

    Args:
        method: Which of them.
        k: Neighbours of `"mle"`, `"correlation"` and of every `.local`.
        discard: Share of the ratios left out by `"fit"`.
        estimator: `"ml"` or `"fit"`, for `"twonn"`.

    Examples:
        >>> t = torch.rand(1000, 1, generator=torch.Generator().manual_seed(0)).double()
        >>> round(float(IntrinsicDimension().compute(torch.cat([t, t.sin(), t**2], 1))))
        1

    References:
        Facco, d'Errico, Rodriguez & Laio (2017). Estimating the intrinsic dimension of datasets by
        a minimal neighborhood information. Scientific Reports 7, 12140.
        doi:10.1038/s41598-017-11873-y

        Levina & Bickel (2004). Maximum likelihood estimation of intrinsic dimension. NeurIPS 17.

        Grassberger & Procaccia (1983). Measuring the strangeness of strange attractors. Physica D
        9, 189. doi:10.1016/0167-2789(83)90298-1

        Fukunaga & Olsen (1971). An algorithm for finding intrinsic dimensionality of data. IEEE
        Transactions on Computers C-20, 176. doi:10.1109/T-C.1971.223208
    """

    def __init__(
        self,
        *,
        method: Method = "twonn",
        k: int = 20,
        discard: Number = 0.1,
        estimator: Literal["ml", "fit"] = "ml",
    ) -> None:
        one_of("method", method, get_args(Method))
        one_of("estimator", estimator, ("ml", "fit"))
        if k < 3:
            raise ValueError(f"k must be at least 3, got {k}")
        if not 0 <= discard < 1:
            raise ValueError(f"discard must lie in [0, 1), got {discard}")
        self.method: Method = method
        self.k = k
        self.discard = discard
        self.estimator = estimator

    def __repr__(self) -> str:
        return (
            f"IntrinsicDimension(method={self.method!r}, k={self.k}, discard={self.discard}, "
            f"estimator={self.estimator!r})"
        )

    def compute(self, x: Array) -> Tensor:
        """Dimension of every cloud.

        Args:
            x: Points, (..., samples, features).

        Returns:
            One value per batch item, (...).

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When there are too few distinct points.
        """
        data = as_real("x", x, at_least=(5, 1))
        return _distinct(data.double(), self._least(), self._whole).to(data.dtype)

    def local(self, x: Array) -> Tensor:
        """Dimension around every point, from its `k` nearest neighbours.

        Args:
            x: Points, (..., samples, features), all distinct.

        Returns:
            Values (..., samples). `"twonn"` averages the log ratio over the neighbourhood.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When there are at most k points, points coincide, or the method is
                `"correlation"`, which has no local form.
        """
        if self.method == "correlation":
            raise ValueError("method 'correlation' has no local form; use 'mle', 'twonn' or 'pca'")
        given = as_real("x", x, at_least=(self.k + 1, 1))
        data = given.double()
        distance, found = nearest(data, self.k)
        if bool((distance[..., 0] == 0).any()):
            raise ValueError("x holds points that coincide; remove the duplicates")
        if self.method == "mle":
            logs = (distance[..., -1:] / distance[..., :-1]).log().sum(-1)
            return ((self.k - 2) / logs).to(given.dtype)
        flat = found.flatten(-2)
        if self.method == "twonn":
            logs = (distance[..., 1] / distance[..., 0]).log()
            around = logs.gather(-1, flat).reshape(found.shape).sum(-1) + logs
            return (self.k / around).to(given.dtype)
        index = flat.unsqueeze(-1).expand(*data.shape[:-2], -1, data.shape[-1])
        beside = data.gather(-2, index).reshape(*found.shape, data.shape[-1])
        return _large_eigenvalues(beside).to(given.dtype)

    def curve(
        self, x: Array, *, n_sizes: int = 5, generator: torch.Generator | None = None
    ) -> DimensionCurve:
        """Dimension of ever smaller random parts: noise counts at small scales only.

        The points are cut into 1, 2, 4, ... disjoint parts, so the distance between neighbours
        grows along the curve. A plateau is a dimension that does not depend on the scale.

        Args:
            x: Points, (samples, features).
            n_sizes: How often the points are halved, plus one.
            generator: Source of the cuts; None starts one from seed 0.

        Returns:
            The curve.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When x has another number of axes or is too small to be cut so often.
        """
        data = as_real("x", x, at_least=(5, 1))
        least = max(self._least(), 5) * 2 ** (n_sizes - 1)
        if data.ndim != 2 or n_sizes < 1 or len(data) < least:
            raise ValueError(
                f"x must be (samples >= {least}, features) for n_sizes={n_sizes} >= 1, got shape "
                f"{tuple(data.shape)}; lower n_sizes"
            )
        source = torch.Generator().manual_seed(0) if generator is None else generator
        order = torch.randperm(len(data), generator=source).to(data.device)
        rows = []
        for j in range(n_sizes):
            size = len(data) // 2**j
            parts = data[order[: size * 2**j]].reshape(2**j, size, -1)
            scale = nearest(parts.double(), 1)[0].mean()
            rows.append((size, float(scale), float(self.compute(parts).mean())))
        sizes, scales, values = zip(*rows, strict=True)
        return DimensionCurve(torch.tensor(sizes), torch.tensor(scales), torch.tensor(values))

    def scale(self, x: Array, n_points: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Dimension of random parts of a given size.

        Args:
            x: Points, (samples, features).
            n_points: Size of the parts; as many disjoint ones as there are.
            generator: Source of the cuts; None starts one from seed 0.

        Returns:
            Mean dimension of the parts, a scalar.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When the parts would be too small or larger than x.
        """
        data = as_real("x", x, at_least=(5, 1))
        if data.ndim != 2 or not max(self._least(), 5) <= n_points <= len(data):
            raise ValueError(
                f"n_points must lie between {max(self._least(), 5)} and the samples of x "
                f"(samples, features), got {n_points} for shape {tuple(data.shape)}"
            )
        source = torch.Generator().manual_seed(0) if generator is None else generator
        order = torch.randperm(len(data), generator=source).to(data.device)
        n_parts = len(data) // n_points
        return self.compute(data[order[: n_parts * n_points]].reshape(n_parts, n_points, -1)).mean()

    def _least(self) -> int:
        return {"twonn": 3, "mle": self.k + 1, "correlation": self.k + 1, "pca": 2}[self.method]

    def _whole(self, x: Float[Tensor, "*batch sample feature"]) -> Float[Tensor, "*batch"]:
        if self.method == "pca":
            return _large_eigenvalues(x)
        distance, _ = nearest(x, 2 if self.method == "twonn" else self.k)
        if self.method == "correlation":
            return _correlation(x, distance, self.k)
        logs = (distance[..., -1:] / distance[..., :-1]).log()
        if self.method == "mle":
            return (self.k - 1) / logs.sum(-1).mean(-1)
        ratios, n = logs[..., 0], x.shape[-2]
        if self.estimator == "ml":
            return (n - 1) / ratios.sum(-1)
        kept = max(2, int(n * (1 - self.discard)))
        rank = torch.arange(kept, dtype=x.dtype, device=x.device) / n
        height = -torch.log1p(-rank)
        u = ratios.sort(-1).values[..., :kept]
        return (u * height).sum(-1) / u.square().sum(-1)


def _large_eigenvalues(x: Float[Tensor, "*batch sample feature"]) -> Float[Tensor, "*batch"]:
    power = torch.linalg.svdvals(x - x.mean(-2, keepdim=True)).square()
    count: Tensor = (power > _SHARE * power[..., :1]).sum(-1).to(x.dtype)
    return count


def _correlation(
    x: Float[Tensor, "*batch sample feature"], distance: Float[Tensor, "*batch sample k"], k: int
) -> Float[Tensor, "*batch"]:
    gap = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    n = x.shape[-2]
    radii = [distance[..., j].median(-1).values for j in (k // 2 - 1, k - 1)]
    sums = [((gap <= (1 + 1e-9) * r[..., None, None]).sum((-2, -1)) - n).to(x.dtype) for r in radii]
    return (sums[1] / sums[0]).log() / (radii[1] / radii[0]).log()


def _distinct(
    x: Float[Tensor, "*batch sample feature"], least: int, estimate: Callable[[Tensor], Tensor]
) -> Float[Tensor, "*batch"]:
    """An estimate of distinct points; one item after the other where some coincide."""
    # An equal pair is equal in any projection, and next to one another once that is sorted.
    line = x @ torch.linspace(1, 2, x.shape[-1], dtype=x.dtype, device=x.device).sin()
    ordered = line.sort(-1).values
    if x.shape[-2] >= least and bool((ordered[..., 1:] > ordered[..., :-1]).all()):
        return estimate(x)
    found, removed = [], 0
    for item in x.reshape(-1, *x.shape[-2:]):
        points = torch.unique(item, dim=0)
        removed += len(item) - len(points)
        if len(points) < least:
            raise ValueError(
                f"x needs at least {least} distinct points, got {len(points)}; lower k or pass more"
            )
        found.append(estimate(points))
    if removed:
        warnings.warn(f"{removed} duplicate points were left out", UserWarning, stacklevel=3)
    return torch.stack(found).reshape(x.shape[:-2])
