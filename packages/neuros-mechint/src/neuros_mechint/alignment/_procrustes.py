"""Procrustes distance: what is left after the best rotation of one representation."""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from neuros_mechint.alignment._matrices import Matrix, as_pair, centered, one_of
from neuros_mechint.alignment._permuted import crossed

__all__ = ["Procrustes", "ProcrustesResult"]

ProcrustesMetric = Literal["angular", "residual"]


class ProcrustesResult(NamedTuple):
    r"""Distance, and the map that takes y nearest to x: `scale * y @ rotation + translation`.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
        >>> found = Procrustes(metric="residual").compute(x, 2 * x.flip(-1) + 1)
        >>> round(float(found.scale), 4)
        0.5
    """

    distance: Tensor
    rotation: Tensor
    scale: Tensor
    translation: Tensor

    def to_dict(self) -> dict[str, Tensor]:
        """The four tensors by name."""
        return self._asdict()


class Procrustes:
    r"""Orthogonal Procrustes: distance of two representations up to rotation and reflection.

    With both sides centred and of unit Frobenius norm, and $\|\cdot\|_*$ the nuclear norm,

    $$d_\mathrm{angular} = \arccos \|X^\top Y\|_*, \qquad
    d_\mathrm{residual} = 1 - \|X^\top Y\|_*^2.$$

    The angular distance is a metric: it obeys the triangle inequality. Without `scale` the residual
    is $\min_R \|X - Y R\|_F^2$ in the units of the data. The narrower side gets zero columns.

    Args:
        scale: Whether the overall scale is free.
        center: Whether the mean over samples is free.
        metric: Which distance; `"angular"` is one of shapes and needs `scale=True`.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
        >>> round(abs(float(Procrustes(metric="residual").compute(x, x.flip(-1)).distance)), 6)
        0.0

    References:
        Schönemann (1966), Psychometrika 31, 1-10. doi:10.1007/BF02289451
        Williams, Kunz, Kornblith & Linderman (2021), NeurIPS 34. arXiv:2110.14739
    """

    def __init__(
        self, *, scale: bool = True, center: bool = True, metric: ProcrustesMetric = "angular"
    ) -> None:
        one_of("metric", metric, get_args(ProcrustesMetric))
        if metric == "angular" and not scale:
            raise ValueError(
                "metric='angular' compares shapes of unit size; use scale=True or metric='residual'"
            )
        self.scale = scale
        self.center = center
        self.metric: ProcrustesMetric = metric

    def __repr__(self) -> str:
        return f"Procrustes(scale={self.scale}, center={self.center}, metric={self.metric!r})"

    def compute(self, x: Matrix, y: Matrix) -> ProcrustesResult:
        """Distance and best map of y onto x.

        The distance has a gradient in x and y also where singular values repeat; those of the map
        go through singular vectors.

        Args:
            x: Reference, (..., samples, features_x).
            y: Representation that is moved, (..., samples, features_y), of the same samples.

        Returns:
            The distance (...), rotation (..., features, features), scale (...) and translation
            (..., features), with features the larger of the two widths.

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: When the samples differ, or a side is all zero after centring.
        """
        first, second, sizes, means = self._sides(x, y)
        left, _, right = torch.linalg.svd(second.mT @ first)
        rotation = left @ right
        # The nuclear norm by its singular values alone: this gradient exists where they repeat.
        nuclear = torch.linalg.svdvals(second.mT @ first).sum(-1)
        factor = nuclear / sizes[1] if self.scale else torch.ones_like(nuclear)
        translation = means[0] - factor[..., None, None] * means[1] @ rotation
        return ProcrustesResult(
            self._distance(nuclear, sizes[0], sizes[1]), rotation, factor, translation.squeeze(-2)
        )

    def compute_permuted(self, x: Matrix, y: Matrix, orders: Tensor) -> Tensor:
        """Distance of x to `y[order]` for many orders of the samples.

        Args:
            x: Reference, (..., samples, features_x).
            y: Second representation, (..., samples, features_y), of the same samples.
            orders: Orders of the samples of y, (permutations, samples).

        Returns:
            Distances (permutations, ...).

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: As for `compute`.
        """
        first, second, sizes, _ = self._sides(x, y)
        found = [torch.linalg.svdvals(part).sum(-1) for part in crossed(first, second, orders)]
        return self._distance(torch.cat(found), sizes[0], sizes[1])

    def _sides(
        self, x: Matrix, y: Matrix
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Both sides in one width, centred; their squared sizes and their means."""
        first, second = as_pair(x, y)
        width = max(first.shape[-1], second.shape[-1])
        first, second = (pad(z, (0, width - z.shape[-1])) for z in (first, second))
        means = torch.zeros_like(first[..., :1, :]), torch.zeros_like(second[..., :1, :])
        if self.center:
            means = first.mean(-2, keepdim=True), second.mean(-2, keepdim=True)
            first, second = centered(first), centered(second)
        sizes = first.square().sum((-2, -1)), second.square().sum((-2, -1))
        for name, size in zip("xy", sizes, strict=True):
            if bool((size == 0).any()):
                raise ValueError(f"{name} is constant over samples; it has no shape to compare")
        return first, second, sizes, means

    def _distance(self, nuclear: Tensor, size_x: Tensor, size_y: Tensor) -> Tensor:
        if not self.scale:
            return (size_x + size_y - 2 * nuclear).clamp(min=0)
        cosine = nuclear / (size_x * size_y).sqrt()
        if self.metric == "residual":
            return (1 - cosine.square()).clamp(min=0)
        # At 1 the arc cosine has an infinite slope: the distance of equal shapes is a constant 0.
        apart = cosine < 1
        return torch.where(apart, cosine.where(apart, 0.0).arccos(), 0.0)
