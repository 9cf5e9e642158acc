"""Tangent directions of a cloud of points, and the angles between subspaces."""

import torch
from torch import Tensor

from neuros_mechint._arrays import Array, as_real
from neuros_mechint.geometry._neighbours import nearest

__all__ = ["TangentSubspace"]


class TangentSubspace:
    """Leading principal directions around every point, or of all of them.

    Args:
        dimension: Directions of the subspace.
        k: Neighbours of every point; None takes all points at once.

    Examples:
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
        >>> line = TangentSubspace(1)
        >>> basis = line.compute(x)
        >>> round(float(line.angles(basis, line.compute(x.flip(1)))[0]), 4)
        1.5708

    References:
        Bjoerck & Golub (1973). Numerical methods for computing angles between linear subspaces.
        Mathematics of Computation 27, 579. doi:10.1090/S0025-5718-1973-0348991-3
    """

    def __init__(self, dimension: int, *, k: int | None = None) -> None:
        if dimension < 1:
            raise ValueError(f"dimension must be at least 1, got {dimension}")
        if k is not None and k < dimension:
            raise ValueError(f"k must be at least dimension = {dimension}, got {k}")
        self.dimension = dimension
        self.k = k

    def __repr__(self) -> str:
        return f"TangentSubspace({self.dimension}, k={self.k})"

    def compute(self, x: Array) -> Tensor:
        """Orthonormal bases.

        Args:
            x: Points, (..., samples, features).

        Returns:
            Bases (..., samples, features, dimension), or (..., features, dimension) without k.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When samples or features are too few.
        """
        least = (self.k or self.dimension) + 1
        data = as_real("x", x, at_least=(least, self.dimension))
        if self.k is not None:
            _, found = nearest(data, self.k)
            index = found.flatten(-2).unsqueeze(-1).expand(*data.shape[:-2], -1, data.shape[-1])
            beside = data.gather(-2, index).reshape(*found.shape, data.shape[-1])
            data = torch.cat([data.unsqueeze(-2), beside], -2)
        right = torch.linalg.svd(data - data.mean(-2, keepdim=True), full_matrices=False).Vh
        basis: Tensor = right[..., : self.dimension, :].mT
        return basis

    def angles(self, first: Array, second: Array) -> Tensor:
        """Principal angles between subspaces, smallest first.

        Args:
            first: Orthonormal bases, (..., features, directions).
            second: Orthonormal bases, (..., features, directions).

        Returns:
            Angles in radians, (..., directions of the smaller).

        Raises:
            TypeError: When an argument is not a real tensor or array.
            ValueError: When features differ or a basis is not orthonormal.
        """
        a = as_real("first", first, axes=("features", "directions"), at_least=(1, 1))
        b = as_real("second", second, axes=("features", "directions"), at_least=(1, 1))
        if a.shape[-2] != b.shape[-2]:
            raise ValueError(
                f"first and second must have the same features, got {a.shape[-2]} and {b.shape[-2]}"
            )
        a, b = a.double(), b.double()
        for name, basis in (("first", a), ("second", b)):
            eye = torch.eye(basis.shape[-1], dtype=basis.dtype, device=basis.device)
            if float((basis.mT @ basis - eye).abs().max()) > 1e-3:
                raise ValueError(f"{name} must have orthonormal columns; pass torch.linalg.qr(z).Q")
        if a.shape[-1] < b.shape[-1]:
            a, b = b, a
        cosine = torch.linalg.svdvals(a.mT @ b).clamp(max=1)
        sine = torch.linalg.svdvals(b - a @ (a.mT @ b)).flip(-1).clamp(max=1)
        # Each of the two has lost half its digits where the other is small.
        return torch.where(cosine > 0.7, sine.asin(), cosine.acos())
