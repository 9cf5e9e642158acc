"""Information between blocks of one set of samples, by the definition of each method."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
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
    x: Float[Tensor, "sample dx"],
    y: Float[Tensor, "sample dy"],
    given: Float[Tensor, "sample dz"] | None,
    k: int,
    *,
    second: bool = False,
) -> Float[Tensor, ""]:
    """Kraskov's first or second estimator; with a third block that of Frenzel and Pompe."""
    psi = torch.digamma
    if given is not None:
        radius = joint_radii((x, y, given), k).joint
        counts = [
            psi(marginal_counts(torch.cat(blocks, -1), radius, strict=True) + 1.0)
            for blocks in ((x, given), (y, given), (given,))
        ]
        return psi(x.new_tensor(k)) - (counts[0] + counts[1] - counts[2]).mean()
    radii = joint_radii((x, y), k)
    whole = psi(x.new_tensor(k)) + psi(x.new_tensor(len(x)))
    total = x.new_zeros(len(x))
    for block, side in zip((x, y), radii.sides, strict=True):
        reach = side if second else radii.joint
        inside = marginal_counts(block, reach, strict=not second).to(x.dtype)
        total = total + psi(inside if second else inside + 1)
    return whole - total.mean() - (1 / k if second else 0)


def gross_information(
    x: Float[Tensor, "sample dx"], y: Float[Tensor, "sample dy"], k: int
) -> Float[Tensor, ""]:
    """Gao's estimator: repeated samples count as the atoms that they are."""
    radius = joint_radii((x, y), k).joint
    atom = radius == 0
    zero = torch.zeros_like(radius)
    total = torch.where(
        atom, marginal_counts(torch.cat([x, y], -1), zero, strict=False) + 1.0, float(k)
    )
    value = torch.digamma(total) + math.log(len(x))
    for block in (x, y):
        inside = marginal_counts(block, radius, strict=True)
        same = marginal_counts(block, zero, strict=False)
        value = value - torch.digamma(torch.where(atom, same, inside) + 1.0)
    return value.mean()


def discrete_codes(x: Tensor) -> Int[Tensor, "sample"]:
    """Number of every row among the distinct rows."""
    codes: Tensor = torch.unique(x, dim=0, return_inverse=True)[1]
    return codes


def discrete_information(x: Tensor, y: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
    """Plug-in information of rows taken as symbols, and the mean entropy of x and y."""

    def entropy(*blocks: Tensor) -> Tensor:
        share = discrete_codes(torch.cat(blocks, -1)).bincount().double() / len(x)
        return -(share * share.log()).sum()

    if given is None:
        h_x, h_y = entropy(x), entropy(y)
        return h_x + h_y - entropy(x, y), (h_x + h_y) / 2
    h_x, h_y = entropy(x, given), entropy(y, given)
    base = entropy(given)
    return h_x + h_y - entropy(x, y, given) - base, (h_x + h_y) / 2 - base


def separated(blocks: Sequence[Tensor]) -> list[Tensor]:
    """Blocks whose repeated values are set apart by a fixed, tiny jitter, with a warning."""
    if not any(_repeats(block) for block in blocks):
        return list(blocks)
    warnings.warn(
        "some features repeat their values; they get a jitter of 1e-10 of their spread, the same "
        "at every call. For discrete or mixed data use method='discrete' or method='gross'",
        UserWarning,
        stacklevel=4,
    )
    rng = np.random.default_rng(0)
    return [_jittered(block, rng) for block in blocks]


def _jittered(block: Tensor, rng: np.random.Generator) -> Tensor:
    noise = torch.as_tensor(rng.standard_normal(tuple(block.shape))).to(block)
    spread = block.std(0).clamp(min=float(torch.finfo(block.dtype).tiny))
    # The mean goes first: 1e-10 of the spread would be lost beside a large offset.
    return block - block.mean(0) + 1e-10 * spread * noise


def _repeats(block: Tensor) -> bool:
    ordered = block.sort(0).values
    same = (ordered[1:] == ordered[:-1]).double().mean(0)
    return bool((same > _REPEATED).any())
