"""Nodes and weights of Gauss-Legendre quadrature on the unit interval."""

import functools

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["gauss_legendre"]


def gauss_legendre(
    steps: int, *, device: torch.device | str | None = None
) -> tuple[Float[Tensor, "steps"], Float[Tensor, "steps"]]:
    r"""Return nodes and weights with $\int_0^1 f(a)\,da \approx \sum_k w_k f(a_k)$.

    Exact for polynomials of degree $2\,\mathrm{steps} - 1$; one step is the midpoint rule.

    Args:
        steps: Number of nodes, at least 1.
        device: Where the tensors live.

    Returns:
        Nodes in (0, 1), ascending, and weights that sum to 1, both (steps,) in float64.

    Raises:
        ValueError: When `steps` is below 1.

    Examples:
        >>> nodes, weights = gauss_legendre(3)
        >>> round((weights * nodes**5).sum().item(), 12)  # 1 / 6
        0.166666666667
    """
    if steps < 1:
        raise ValueError(f"steps needs at least 1 node, got {steps}")
    nodes, weights = _on_unit_interval(steps)
    return torch.tensor(nodes, device=device), torch.tensor(weights, device=device)


@functools.lru_cache(maxsize=64)
def _on_unit_interval(steps: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2
