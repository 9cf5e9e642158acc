"""Information between blocks of one set of samples, by the definition of each method."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuros_mechint.dynamics._information_neighbours import joint_radii, marginal_counts

__all__ = [
    "copula_normal",
    "discrete_codes",
    "discrete_information",
    "gaussian_entropy",
    "gaussian_information",
    "gross_information",
    "ksg_information",
    "separated",
    "symbol_entropy",
]

# Share of repeated values above which a feature counts as discrete; below it is rounding.
_REPEATED = 0.01


def gaussian_entropy(
    x: Float[Tensor, "*batch sample feature"], *, unbiased: bool = False
) -> Float[Tensor, "*batch"]:
    """Entropy of a Gaussian with the covariance of the samples, in nats."""
    n, d = x.shape[-2:]
    if d == 0:
        return x.new_zeros(x.shape[:-2])
    x = x - x.mean(-2, keepdim=True)
    _, log_det = torch.linalg.slogdet(x.mT @ x / (n - 1))
    entropy: Tensor = 0.5 * (log_det + d * math.log(2 * math.pi * math.e))
    if unbiased:
        # Mean of the log determinant of a Wishart matrix (Misra 2005).
        half = (n - torch.arange(1, d + 1, dtype=x.dtype, device=x.device)) / 2
        entropy = entropy - 0.5 * (torch.digamma(half).sum() + d * math.log(2 / (n - 1)))
    return entropy


def gaussian_information(
    x: Tensor, y: Tensor, given: Tensor | None, *, unbiased: bool
) -> Float[Tensor, "*batch"]:
    """Information of Gaussian blocks from log determinants, in nats."""
    if given is None:
        given = x[..., :0]

    def entropy(*blocks: Tensor) -> Tensor:
        return gaussian_entropy(torch.cat(blocks, -1), unbiased=unbiased)

    value: Tensor = entropy(x, given) + entropy(y, given) - entropy(x, y, given) - entropy(given)
    return value


def copula_normal(
    x: Float[Tensor, "*batch sample feature"],
) -> Float[Tensor, "*batch sample feature"]:
    """Every feature replaced by the normal quantile of its rank."""
    ranks = x.argsort(dim=-2, stable=True).argsort(dim=-2).to(x.dtype) + 1
    quantiles: Tensor = torch.special.ndtri(ranks / (x.shape[-2] + 1))
    return quantiles


def ksg_information(
    x: Float[Tensor, "*batch sample dx"],
    y: Float[Tensor, "*batch sample dy"],
    given: Float[Tensor, "*batch sample dz"] | None,
    k: int,
    *,
    second: bool = False,
) -> Float[Tensor, "*batch"]:
    """Kraskov's first or second estimator; with a third block that of Frenzel and Pompe."""
    psi = torch.digamma
    if given is not None:
        radius = joint_radii((x, y, given), k).joint
        counts = [
            psi(marginal_counts(torch.cat(blocks, -1), radius, strict=True) + 1.0)
            for blocks in ((x, given), (y, given), (given,))
        ]
        return psi(x.new_tensor(k)) - (counts[0] + counts[1] - counts[2]).mean(-1)
    radii = joint_radii((x, y), k, sides=second)
    whole = psi(x.new_tensor(k)) + psi(x.new_tensor(x.shape[-2]))
    total = torch.zeros_like(x[..., 0])
    for block, reach in zip((x, y), radii.sides if second else (radii.joint,) * 2, strict=True):
        inside = marginal_counts(block, reach, strict=not second).to(x.dtype)
        total = total + psi(inside if second else inside + 1)
    return whole - total.mean(-1) - (1 / k if second else 0)


def gross_information(
    x: Float[Tensor, "*batch sample dx"], y: Float[Tensor, "*batch sample dy"], k: int
) -> Float[Tensor, "*batch"]:
    """Gao's estimator: repeated samples count as the atoms that they are."""
    radius = joint_radii((x, y), k).joint
    atom = radius == 0
    zero = torch.zeros_like(radius)
    total = torch.where(
        atom, marginal_counts(torch.cat([x, y], -1), zero, strict=False) + 1.0, float(k)
    )
    value = torch.digamma(total) + math.log(x.shape[-2])
    for block in (x, y):
        inside = marginal_counts(block, radius, strict=True)
        same = marginal_counts(block, zero, strict=False)
        value = value - torch.digamma(torch.where(atom, same, inside) + 1.0)
    return value.mean(-1)


def discrete_codes(x: Float[Tensor, "*batch sample feature"]) -> Int[Tensor, "*batch sample"]:
    """Number of every row among the distinct rows of the batch; items share no number."""
    code = _item_of(x)
    # One feature after the other: sorting numbers takes a tenth of sorting rows.
    for feature in x.flatten(0, -2).unbind(-1):
        level = torch.unique(feature, return_inverse=True)[1]
        code = torch.unique(code * (level.max() + 1) + level, return_inverse=True)[1]
    return code.reshape(x.shape[:-1])


def symbol_entropy(x: Float[Tensor, "*batch sample feature"]) -> Float[Tensor, "*batch"]:
    """Plug-in entropy of the rows taken as symbols, in nats."""
    code = discrete_codes(x).flatten()
    counts = code.bincount()
    item = torch.zeros_like(counts).scatter_(0, code, _item_of(x))
    share = counts.to(x.dtype) / x.shape[-2]
    total = x.new_zeros(x.shape[:-2].numel())
    return total.index_add_(0, item, -share * share.log()).reshape(x.shape[:-2])


def _item_of(x: Float[Tensor, "*batch sample feature"]) -> Int[Tensor, " row"]:
    """Number of the batch item of every row."""
    items = torch.arange(x.shape[:-2].numel(), device=x.device)
    return items.repeat_interleave(x.shape[-2])


def discrete_information(x: Tensor, y: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
    """Plug-in information of rows taken as symbols, and the mean entropy of x and y."""

    def entropy(*blocks: Tensor) -> Tensor:
        return symbol_entropy(torch.cat(blocks, -1))

    if given is None:
        h_x, h_y = entropy(x), entropy(y)
        return h_x + h_y - entropy(x, y), (h_x + h_y) / 2
    h_x, h_y = entropy(x, given), entropy(y, given)
    base = entropy(given)
    return h_x + h_y - entropy(x, y, given) - base, (h_x + h_y) / 2 - base


def separated(blocks: Sequence[Tensor]) -> list[Tensor]:
    """Blocks whose repeated values are set apart by a fixed, tiny jitter, with a warning."""
    repeats = torch.stack([_repeats(block) for block in blocks]).any(0)
    if not bool(repeats.any()):
        return list(blocks)
    warnings.warn(
        "some features repeat their values; they get a jitter of 1e-10 of their spread, the same "
        "at every call. For discrete or mixed data use method='discrete' or method='gross'",
        UserWarning,
        stacklevel=4,
    )
    rng = np.random.default_rng(0)
    at = repeats[..., None, None]
    return [torch.where(at, _jittered(block, rng), block) for block in blocks]


def _jittered(
    block: Float[Tensor, "*batch sample feature"], rng: np.random.Generator
) -> Float[Tensor, "*batch sample feature"]:
    # Every item of a batch gets the jitter that it would get alone.
    noise = torch.as_tensor(rng.standard_normal(tuple(block.shape[-2:]))).to(block)
    tiny = float(torch.finfo(block.dtype).tiny)
    spread = block.std(-2, keepdim=True).clamp(min=tiny)
    # The mean goes first: 1e-10 of the spread would be lost beside a large offset.
    jittered: Tensor = block - block.mean(-2, keepdim=True) + 1e-10 * spread * noise
    return jittered


def _repeats(block: Float[Tensor, "*batch sample feature"]) -> Bool[Tensor, "*batch"]:
    """Which items have a feature that repeats its values."""
    # NumPy sorts twice as fast where it can.
    ordered = (
        block.sort(-2).values
        if block.is_cuda
        else torch.as_tensor(np.sort(block.detach().numpy(), axis=-2))
    )
    same = (ordered[..., 1:, :] == ordered[..., :-1, :]).double().mean(-2)
    return (same > _REPEATED).any(-1)
