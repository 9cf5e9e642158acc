"""How a cloud of points and a trajectory bend."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real
from neuros_mechint.geometry._neighbours import nearest

__all__ = [
    "CurvatureResult",
    "ManifoldCurvature",
    "Straightness",
    "StraightnessResult",
    "TrajectoryCurvature",
]


@dataclass(frozen=True)
class CurvatureResult:
    """Curvature at every point.

    Attributes:
        mean: Length of the mean curvature vector, (..., samples).
        gaussian: Mean sectional curvature, (..., samples): the Gaussian curvature of a surface;
            0 for a curve.
    """

    mean: Tensor
    gaussian: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a report."""
        return {"mean": self.mean.tolist(), "gaussian": self.gaussian.tolist()}


@dataclass(frozen=True)
class TrajectoryCurvature:
    """Speed and bending of a trajectory.

    Attributes:
        speed: Distance per time of every step, (..., time - 1).
        curvature: One over the radius of the circle through three samples, (..., time - 2); 0 where
            the trajectory is straight or rests.
    """

    speed: Tensor
    curvature: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a report."""
        return {"speed": self.speed.tolist(), "curvature": self.curvature.tolist()}


class ManifoldCurvature:
    r"""Curvature of the manifold that points lie on, from a quadratic fit around each of them.

    The tangent is spanned by the leading principal components of the neighbours; the offsets along
    every normal direction are fitted by $a + b^\top u + \frac12 u^\top H u$. With one H per normal
    direction the mean curvature vector has the parts $\mathrm{tr} H / d$, and the mean sectional
    curvature is $\sum (\mathrm{tr}(H)^2 - |H|^2) / (d (d - 1))$ (Gauss equation).

    Args:
        dimension: Dimension of the manifold, $d$.
        k: Neighbours of every fit.

    Examples:
        Unit vectors lie on a sphere of curvature 1:

        >>> x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)).double()
        >>> found = ManifoldCurvature().compute(x / x.norm(dim=1, keepdim=True))
        >>> round(float(found.gaussian.median()), 1), round(float(found.mean.median()), 1)
        (1.0, 1.0)

    References:
        Sritharan, Wang & Hormoz (2021). Computing the Riemannian curvature of image patch and
        single-cell RNA sequencing data manifolds using extrinsic differential geometry. PNAS 118,
        e2100473118. doi:10.1073/pnas.2100473118
    """

    def __init__(self, *, dimension: int = 2, k: int = 30) -> None:
        if dimension < 1:
            raise ValueError(f"dimension must be at least 1, got {dimension}")
        least = 1 + dimension + dimension * (dimension + 1) // 2
        if k < least:
            raise ValueError(
                f"k must be at least {least}, the coefficients of a quadratic in {dimension} "
                f"dimensions, got {k}"
            )
        self.dimension = dimension
        self.k = k

    def __repr__(self) -> str:
        return f"ManifoldCurvature(dimension={self.dimension}, k={self.k})"

    def compute(self, x: Array) -> CurvatureResult:
        """Curvature at every point.

        Args:
            x: Points, (..., samples, features).

        Returns:
            Mean and Gaussian curvature.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When there are at most k points, or no normal direction.
        """
        given = as_real("x", x, at_least=(self.k + 1, self.dimension + 1))
        data = given.double()
        _, found = nearest(data, self.k)
        index = found.flatten(-2).unsqueeze(-1).expand(*data.shape[:-2], -1, data.shape[-1])
        beside = data.gather(-2, index).reshape(*found.shape, data.shape[-1]) - data.unsqueeze(-2)
        mean, gaussian = _bent(beside, self.dimension)
        return CurvatureResult(mean.to(given.dtype), gaussian.to(given.dtype))

    def trajectory(self, x: Array, *, dt: Number = 1.0) -> TrajectoryCurvature:
        """Speed and curvature of trajectories; samples of a circle give 1 / r exactly.

        Args:
            x: Trajectories, (..., time, channels).
            dt: Time between samples.

        Returns:
            Speed and curvature.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When there are fewer than 3 samples or dt is not positive.
        """
        data = as_real("x", x, axes=("time", "channels"), at_least=(3, 1))
        if dt <= 0:
            raise ValueError(f"dt must be positive, got {dt}")
        step = data.diff(dim=-2)
        length = step.norm(dim=-1)
        a, b, c = (
            length[..., :-1],
            length[..., 1:],
            (data[..., 2:, :] - data[..., :-2, :]).norm(dim=-1),
        )
        inner = (step[..., :-1, :] * step[..., 1:, :]).sum(-1)
        # Menger curvature: four times the area of the triangle over the product of its sides.
        area = (a.square() * b.square() - inner.square()).clamp(min=0).sqrt()
        product = a * b * c
        bent = product > 0
        curvature = torch.where(bent, 2 * area / product.where(bent, 1.0), 0.0)
        return TrajectoryCurvature(length / dt, curvature)


@dataclass(frozen=True)
class StraightnessResult:
    """How straight trajectories are.

    Attributes:
        angle: Mean angle between successive steps in radians, (...); 0 is straight.
        ratio: Distance from end to end over the length of the path, (...); 1 is straight.
    """

    angle: Tensor
    ratio: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a report."""
        return {"angle": self.angle.tolist(), "ratio": self.ratio.tolist()}


class Straightness:
    """Mean turn of a trajectory, and its end-to-end distance over its length.

    Examples:
        >>> found = Straightness().compute(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]))
        >>> round(float(found.angle), 4), round(float(found.ratio), 4)
        (1.5708, 0.7071)

    References:
        Henaff, Goris & Simoncelli (2019). Perceptual straightening of natural videos. Nature
        Neuroscience 22, 984. doi:10.1038/s41593-019-0377-4
    """

    def __repr__(self) -> str:
        return "Straightness()"

    def compute(self, x: Array) -> StraightnessResult:
        """Straightness of every trajectory; steps of length 0 turn nowhere and are left out.

        Args:
            x: Trajectories, (..., time, channels).

        Returns:
            Angle and ratio, one per batch item.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When there are fewer than 3 samples or a trajectory never moves.
        """
        data = as_real("x", x, axes=("time", "channels"), at_least=(3, 1))
        step = data.diff(dim=-2)
        length = step.norm(dim=-1)
        path = length.sum(-1)
        if bool((path == 0).any()):
            raise ValueError("x holds a trajectory that never moves; it has no direction")
        unit = step / length.where(length > 0, 1.0).unsqueeze(-1)
        first, second = unit[..., :-1, :], unit[..., 1:, :]
        # The half-angle form keeps its digits where steps are nearly parallel.
        angle = 2 * torch.atan2((first - second).norm(dim=-1), (first + second).norm(dim=-1))
        turns = (length[..., :-1] > 0) & (length[..., 1:] > 0)
        mean = (angle * turns).sum(-1) / turns.sum(-1).clamp(min=1)
        return StraightnessResult(mean, (data[..., -1, :] - data[..., 0, :]).norm(dim=-1) / path)


def _bent(
    beside: Float[Tensor, "*batch sample k feature"], d: int
) -> tuple[Float[Tensor, "*batch sample"], Float[Tensor, "*batch sample"]]:
    right = torch.linalg.svd(beside - beside.mean(-2, keepdim=True), full_matrices=False).Vh
    turned = beside @ right.mT
    u, offsets = turned[..., :d], turned[..., d:]
    rows, columns = torch.triu_indices(d, d)
    # Diagonal terms carry the 1/2 of the expansion, the others stand for two entries of H.
    factor = torch.where(rows == columns, 0.5, 1.0).to(u)
    square = u[..., rows] * u[..., columns] * factor
    design = torch.cat([torch.ones_like(u[..., :1]), u, square], -1)
    fitted = torch.linalg.lstsq(design, offsets).solution[..., 1 + d :, :]
    hessian = u.new_zeros(*u.shape[:-2], d, d, offsets.shape[-1])
    hessian[..., rows, columns, :] = fitted
    hessian[..., columns, rows, :] = fitted
    trace = hessian.diagonal(dim1=-3, dim2=-2).sum(-1)
    mean = trace.norm(dim=-1) / d
    if d == 1:
        return mean, torch.zeros_like(mean)
    total = trace.square().sum(-1) - hessian.square().sum((-3, -2, -1))
    return mean, total / (d * (d - 1))
