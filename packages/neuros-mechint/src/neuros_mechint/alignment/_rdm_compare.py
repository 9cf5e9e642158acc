"""How alike two dissimilarity matrices are: as vectors of pairs, as ranks, or whitened."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["RANKED", "pair_scores", "pair_vector", "prepare", "rank"]

RANKED = ("spearman", "tau_a", "rho_a")


def pair_vector(
    rdm: Float[Tensor, "*batch cond cond"],
) -> Float[Tensor, "*batch pair"]:
    """The entries above the diagonal, row by row."""
    n = rdm.shape[-1]
    rows, columns = torch.triu_indices(n, n, offset=1, device=rdm.device)
    return rdm[..., rows, columns]


def rank(x: Float[Tensor, "*batch pair"]) -> Float[Tensor, "*batch pair"]:
    """Ranks from 1, the mean of them where values tie."""
    x = x.detach().contiguous()
    ordered = x.sort(-1).values
    below = torch.searchsorted(ordered, x, right=False)
    up_to = torch.searchsorted(ordered, x, right=True)
    return (below + up_to + 1).to(x.dtype) / 2


def prepare(kind: str, rdm: Float[Tensor, "*batch cond cond"]) -> Float[Tensor, "*batch cond cond"]:
    """The matrix whose inner products, off the diagonal and on it, are the comparison.

    All kinds but `"tau_a"` are such a product, so permuting the conditions permutes this matrix.

    Raises:
        ValueError: When all dissimilarities are the same, or 0.
    """
    if kind == "whitened":
        # In the Gram matrix of the conditions the errors of the estimate are independent.
        rows = rdm.mean(-1, keepdim=True)
        form = -0.5 * (rdm - rows - rows.mT + rows.mean(-2, keepdim=True))
        return _scaled(form, form.square().sum((-2, -1)))
    n = rdm.shape[-1]
    rows, columns = torch.triu_indices(n, n, offset=1, device=rdm.device)
    pairs = rdm[..., rows, columns]
    if kind in RANKED:
        pairs = rank(pairs)
    if kind != "cosine":
        pairs = pairs - pairs.mean(-1, keepdim=True)
    form = rdm.new_zeros(rdm.shape)
    form[..., rows, columns] = pairs
    form = form + form.mT
    if kind == "rho_a":
        m = pairs.shape[-1]
        return form * math.sqrt(6 / (m**3 - m))
    return form if kind == "tau_a" else _scaled(form, 2 * pairs.square().sum(-1))


def pair_scores(
    kind: str,
    first: Float[Tensor, "*batch cond cond"],
    second: Float[Tensor, "*batch cond cond"],
) -> Float[Tensor, "*batch"]:
    """Comparison of two prepared matrices."""
    if kind == "tau_a":
        return _tau_a(pair_vector(first), pair_vector(second))
    found: Tensor = (first * second).sum((-2, -1))
    return found


def _scaled(
    form: Float[Tensor, "*batch cond cond"], size: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch cond cond"]:
    if bool((size == 0).any()):
        raise ValueError(
            "all dissimilarities of a matrix are the same, so nothing can be compared with it"
        )
    return form / size.sqrt()[..., None, None]


def _tau_a(
    x: Float[Tensor, "*batch pair"], y: Float[Tensor, "*batch pair"]
) -> Float[Tensor, "*batch"]:
    """Concordant less discordant pairs over all pairs (Nili 2014), by counting inversions."""
    x, y = x.detach() + torch.zeros_like(y), y.detach() + torch.zeros_like(x)
    n = x.shape[-1]
    # By x, and by y where x ties: then every inversion of y is a discordant pair.
    by_y = y.argsort(dim=-1, stable=True)
    order = by_y.gather(-1, x.gather(-1, by_y).argsort(dim=-1, stable=True))
    a, b = x.gather(-1, order), y.gather(-1, order)
    total = n * (n - 1) // 2
    ties_x, ties_y = _n_ties(a), _n_ties(y.sort(-1).values)
    both = _n_ties(a, b)
    agreed = total - ties_x - ties_y + both - 2 * _n_inversions(b)
    return agreed.to(x.dtype) / total


def _n_ties(*keys: Tensor) -> Tensor:
    """Pairs of equal entries in rows sorted by the keys."""
    n = keys[0].shape[-1]
    at = torch.arange(n, device=keys[0].device)
    new = torch.stack([key[..., 1:] != key[..., :-1] for key in keys]).any(0)
    starts = torch.where(new, at[1:], 0)
    starts = torch.cat([torch.zeros_like(starts[..., :1]), starts], -1).cummax(-1).values
    # The k-th of equal entries makes k - 1 pairs with those before it.
    return (at - starts).sum(-1)


def _n_inversions(y: Tensor) -> Tensor:
    """Pairs i < j with y_i > y_j, by merging sorted halves of doubling length."""
    n = y.shape[-1]
    size = 1 << (n - 1).bit_length()
    y = torch.nn.functional.pad(y, (0, size - n), value=float("inf"))
    found = torch.zeros(y.shape[:-1], dtype=torch.long, device=y.device)
    half = 1
    while half < size:
        blocks = y.reshape(*y.shape[:-1], size // (2 * half), 2, half)
        left, right = blocks[..., 0, :].contiguous(), blocks[..., 1, :].contiguous()
        not_above = torch.searchsorted(left, right, right=True)
        found = found + (half - not_above).sum((-2, -1))
        y = blocks.flatten(-2).sort(-1).values.flatten(-2)
        half *= 2
    return found
