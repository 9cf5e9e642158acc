"""Rank correlation of many variables with one, its permutation test, and many tests at once."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["adjusted", "permutation_p_values", "ranks", "unit_ranks"]

# Permutations times samples of one block: 32 MiB.
_BLOCK = 2**22


def ranks(x: Float[Tensor, "*batch sample"]) -> Float[Tensor, "*batch sample"]:
    """Ranks from 1; equal values share the mean of theirs.

    Args:
        x: values.

    Returns:
        Ranks in float64.

    Examples:
        >>> ranks(torch.tensor([3.0, 1.0, 3.0])).tolist()
        [2.5, 1.0, 2.5]
    """
    x = x.contiguous()
    ordered = x.sort(-1).values
    below = torch.searchsorted(ordered, x, right=False)
    up_to = torch.searchsorted(ordered, x, right=True)
    return (below + up_to + 1).double() / 2


def unit_ranks(x: Float[Tensor, "*batch sample"]) -> Float[Tensor, "*batch sample"]:
    """Ranks less their mean, of length 1: their products are Spearman's correlations.

    Args:
        x: values.

    Returns:
        Vectors in float64; nan where all values are equal.

    Examples:
        >>> a, b = unit_ranks(torch.tensor([[1.0, 2.0, 9.0], [5.0, 4.0, 0.0]]))
        >>> round(float(a @ b), 6)
        -1.0
    """
    r = ranks(x)
    offset = r - r.mean(-1, keepdim=True)
    return offset / offset.square().sum(-1, keepdim=True).sqrt()


def permutation_p_values(
    variables: Float[Tensor, "variable sample"],
    target: Float[Tensor, " sample"],
    n_permutations: int,
    generator: torch.Generator,
) -> Float[Tensor, " variable"]:
    r"""Two-sided p-values $(1 + \#\{|r^*| \ge |r|\}) / (1 + n)$ of correlations with one target.

    All variables see the same permutations of the target, so that what they share is kept.

    Args:
        variables: what `unit_ranks` returned.
        target: the same of the target.
        n_permutations: how many permutations n are drawn.
        generator: source of the draws.

    Returns:
        The p-values; a variable of nan has a meaningless one.

    Examples:
        >>> x = unit_ranks(torch.arange(20.0))
        >>> permutation_p_values(x[None], x, 99, torch.Generator().manual_seed(0)).tolist()
        [0.01]
    """
    # Correlations that are equal but for rounding count as reached.
    observed = (variables @ target).abs() - 1e-9
    n_samples = len(target)
    reached = torch.zeros(len(variables), dtype=torch.long, device=target.device)
    per_block = max(1, _BLOCK // n_samples)
    for start in range(0, n_permutations, per_block):
        size = (min(per_block, n_permutations - start), n_samples)
        draws = torch.rand(size, generator=generator, device=generator.device, dtype=torch.float64)
        orders = draws.argsort(-1).to(target.device)
        reached += ((target[orders] @ variables.mT).abs() >= observed).sum(0)
    return (1 + reached).double() / (1 + n_permutations)


def adjusted(p_values: Float[Tensor, " test"]) -> Float[Tensor, " test"]:
    r"""p-values that keep the false discovery rate, $\min_{j \ge i} m\,p_{(j)} / j$.

    Args:
        p_values: one per test.

    Returns:
        Adjusted p-values, at most 1.

    Examples:
        >>> [round(p, 6) for p in adjusted(torch.tensor([0.01, 0.5, 0.03])).tolist()]
        [0.03, 0.5, 0.045]

    References:
        Benjamini & Hochberg (1995). Controlling the false discovery rate. Journal of the Royal
        Statistical Society B 57. https://doi.org/10.1111/j.2517-6161.1995.tb02031.x
    """
    order = p_values.argsort()
    place = torch.arange(1, len(p_values) + 1, device=p_values.device)
    scaled = p_values[order] * len(p_values) / place
    smallest = scaled.flip(0).cummin(0).values.flip(0).clamp(max=1.0)
    result = torch.empty_like(p_values)
    result[order] = smallest
    return result
