"""Layers shared by the fusion and the aggregation."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["feed_forward", "head_count", "rotary_frequencies", "rotate"]


def feed_forward(dim: int, dropout: float, *, expand: int) -> nn.Sequential:
    """Pre-normalised two-layer perceptron of `expand` times the width."""
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, expand * dim),
        nn.GELU(),
        nn.Linear(expand * dim, dim),
        nn.Dropout(dropout),
    )


def head_count(dim: int, n_heads: int | None) -> int:
    """Heads of 64 channels unless given; the width must divide into heads of even size."""
    heads = max(1, dim // 64) if n_heads is None else n_heads
    if heads < 1 or dim % (2 * heads):
        raise ValueError(
            f"width {dim} must be a multiple of 2 * n_heads = {2 * heads}; change one of them"
        )
    return heads


def rotary_frequencies(head_dim: int) -> Float[Tensor, " pair"]:
    """Angular frequencies of periods from 4 ms to 400 s, in radians per second."""
    periods = torch.logspace(-2.4, 2.6, head_dim // 2)
    return 2 * torch.pi / periods


def rotate(
    x: Float[Tensor, "*batch dim"], cos: Float[Tensor, "*#batch pair"], sin: Tensor
) -> Float[Tensor, "*batch dim"]:
    """Rotates pairs (i, i + dim/2) by the angles (Su et al. 2021, eq. 34)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
