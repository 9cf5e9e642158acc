"""Means, medians and norms that training needs."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["geometric_median", "norm_scales", "unit_rows", "without_parallel"]


def geometric_median(
    rows: Float[Tensor, "batch n"], *, tol: float = 1e-6, max_steps: int = 200
) -> Float[Tensor, "n"]:
    r"""Point with the smallest sum of distances to the rows, by Weiszfeld's iteration.

    Vardi & Zhang (2000): a row that the iterate sits on has no direction and is left out, which
    the floor under the distances does here.
    """
    median = rows.mean(0)
    spread = torch.linalg.vector_norm(rows - median, dim=1).mean()
    for _ in range(max_steps):
        distance = torch.linalg.vector_norm(rows - median, dim=1)
        weight = distance.clamp_min(1e-6 * float(spread) + 1e-30).reciprocal()
        previous, median = median, weight @ rows / weight.sum()
        if torch.linalg.vector_norm(median - previous) <= tol * spread:
            break
    return median


def norm_scales(rows: Float[Tensor, "batch n"], widths: Sequence[int]) -> Float[Tensor, "part"]:
    r"""Factor for each part of the columns after which $E \Vert x \Vert^2$ is its width."""
    squares = [part.square().mean() for part in torch.split(rows, list(widths), 1)]
    root = torch.stack(squares).sqrt()
    return torch.where(root > 0, root.reciprocal(), torch.ones_like(root))


def unit_rows(matrix: Float[Tensor, "feature n"]) -> Float[Tensor, "feature n"]:
    """Rows divided by their norms."""
    return torch.nn.functional.normalize(matrix, dim=1)


def without_parallel(
    grad: Float[Tensor, "feature n"], rows: Float[Tensor, "feature n"]
) -> Float[Tensor, "feature n"]:
    """Gradient without its component along each unit row, which would only change the norm."""
    return torch.addcmul(grad, (grad * rows).sum(1, keepdim=True), rows, value=-1)
