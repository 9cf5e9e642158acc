"""Dissimilarities of conditions from a matrix of responses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["cell_means", "distances", "label_codes", "whiten"]

# Weight and rate of the prior that keeps a zero count finite (Schütt 2023, the defaults there).
_PRIOR_WEIGHT, _PRIOR_RATE = 0.1, 1.0


def label_codes(
    name: str, labels: Sequence[Any] | NDArray[Any] | Tensor, n_samples: int
) -> tuple[Tensor, int]:
    """Number the labels of the samples in sorted order.

    Raises:
        ValueError: When there is not one label per sample, or only one value.
    """
    found = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if found.shape != (n_samples,):
        raise ValueError(
            f"{name} needs one label per sample, {n_samples} of them, got shape {found.shape}"
        )
    values, codes = np.unique(found, return_inverse=True)
    if len(values) < 2:
        raise ValueError(f"{name} needs at least two different labels, got {len(values)}")
    return torch.from_numpy(codes), len(values)


def cell_means(
    x: Float[Tensor, "*batch sample channel"], codes: Tensor, n_cells: int
) -> Float[Tensor, "*batch cell channel"]:
    """Mean response of every cell; a cell without samples is NaN."""
    codes = codes.to(x.device)
    counts = torch.zeros(n_cells, dtype=x.dtype, device=x.device)
    counts = counts.index_add(0, codes, torch.ones_like(codes, dtype=x.dtype))
    sums = x.new_zeros(*x.shape[:-2], n_cells, x.shape[-1]).index_add(-2, codes, x)
    return sums / counts.unsqueeze(-1)


def whiten(
    x: Float[Tensor, "*batch sample channel"], noise: Tensor
) -> Float[Tensor, "*batch sample channel"]:
    """Coordinates in which noise of this covariance is white.

    Raises:
        ValueError: When the covariance does not fit the channels, or is not positive definite.
    """
    n_channels = x.shape[-1]
    if noise.shape[-2:] != (n_channels, n_channels):
        raise ValueError(
            f"noise must be a covariance (..., {n_channels}, {n_channels}), one row per channel, "
            f"got shape {tuple(noise.shape)}"
        )
    factor, failed = torch.linalg.cholesky_ex(noise.to(x))
    if bool(failed.any()):
        raise ValueError("noise is not positive definite; shrink it, as noise_covariance(...) does")
    # From the right: a transposed result would be slow to read.
    white: Tensor = torch.linalg.solve_triangular(factor.mT, x, upper=True, left=False)
    return white


def distances(
    kind: str, x: Float[Tensor, "*batch fold cond channel"]
) -> Float[Tensor, "*batch cond cond"]:
    """Dissimilarities of the conditions; every kind but `"crossnobis"` has one fold.

    Raises:
        ValueError: When a condition has no direction, or a rate is below 0.
    """
    if kind == "crossnobis":
        return _crossnobis(x)
    single = x.squeeze(-3)
    if kind in {"correlation", "cosine"}:
        return _angle(single, center=kind == "correlation")
    return _poisson(single) if kind == "poisson" else _squared(single)


def _squared(x: Float[Tensor, "*batch cond channel"]) -> Float[Tensor, "*batch cond cond"]:
    # A common shift changes no distance; without it a large mean would eat the digits.
    shape = x - x.mean(-2, keepdim=True)
    return _from_gram(shape @ shape.mT / x.shape[-1]).clamp(min=0)


def _crossnobis(
    x: Float[Tensor, "*batch fold cond channel"],
) -> Float[Tensor, "*batch cond cond"]:
    """Mean over ordered pairs of different folds, from the sum over all pairs less the own ones."""
    n_folds, n_channels = x.shape[-3], x.shape[-1]
    shape = x - x.mean((-3, -2), keepdim=True)
    total = shape.sum(-3)
    side = shape.movedim(-3, -2).flatten(-2)
    gram = total @ total.mT - side @ side.mT
    return _from_gram(gram / (n_folds * (n_folds - 1) * n_channels))


def _angle(
    x: Float[Tensor, "*batch cond channel"], *, center: bool
) -> Float[Tensor, "*batch cond cond"]:
    flat = (x == x[..., :1]).all(-1) if center else (x == 0).all(-1)
    if bool(flat.any()):
        what = "the same in every channel" if center else "0 in every channel"
        raise ValueError(
            f"a condition is {what}, so its angle to the others is undefined; leave it out, or "
            "use distance='euclidean'"
        )
    shape = x - x.mean(-1, keepdim=True) if center else x
    unit = shape / torch.linalg.vector_norm(shape, dim=-1, keepdim=True)
    return _hollow(1 - unit @ unit.mT)


def _poisson(x: Float[Tensor, "*batch cond channel"]) -> Float[Tensor, "*batch cond cond"]:
    """Symmetrised Kullback-Leibler divergence of Poisson rates."""
    if bool((x < 0).any()):
        raise ValueError("distance='poisson' needs counts or rates of at least 0, got some below")
    rate = (x + _PRIOR_RATE * _PRIOR_WEIGHT) / (1 + _PRIOR_WEIGHT)
    cross = rate @ rate.log().mT / x.shape[-1]
    own = cross.diagonal(dim1=-2, dim2=-1)
    return _hollow(own.unsqueeze(-1) + own.unsqueeze(-2) - cross - cross.mT)


def _from_gram(gram: Float[Tensor, "*batch cond cond"]) -> Float[Tensor, "*batch cond cond"]:
    own = gram.diagonal(dim1=-2, dim2=-1)
    return _hollow(own.unsqueeze(-1) + own.unsqueeze(-2) - 2 * gram)


def _hollow(rdm: Float[Tensor, "*batch cond cond"]) -> Float[Tensor, "*batch cond cond"]:
    """The matrix with the rounding on its diagonal taken away."""
    eye = torch.eye(rdm.shape[-1], dtype=torch.bool, device=rdm.device)
    return rdm.masked_fill(eye, 0.0)
