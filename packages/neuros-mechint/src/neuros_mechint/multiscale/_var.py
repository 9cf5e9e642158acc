"""Vector autoregressions of all pairs of channels, and the causality that they hold."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["PairModels", "fit_pairs", "pairs_of", "radius", "spectral_causality", "time_causality"]

# Grids of frequencies: where to start, and where doubling stops.
_FIRST, _LAST = 256, 16384
_CLOSE = 1e-10
# Share of the largest eigenvalue below which lagged samples count as linearly dependent.
_DEPENDENT = 1e-12
# Noise variance, as a share of the signal's, below which products of samples hold no digit of it.
_LEAST = 1e-14


class PairModels(NamedTuple):
    r"""Models $z_t = \sum_k A_k z_{t-k} + \epsilon_t$ of pairs $z = (x_i, x_j)$.

    Attributes:
        coefficients: $A_k$, (..., pair, order, 2, 2), (to, from).
        noise: Covariance of $\epsilon$, (..., pair, 2, 2).
    """

    coefficients: Tensor
    noise: Tensor


def pairs_of(n_channels: int, device: torch.device) -> Tensor:
    """Channels of every pair, (pair, 2)."""
    return torch.triu_indices(n_channels, n_channels, 1, device=device).mT


def fit_pairs(
    x: Float[Tensor, "*batch epoch channel time"], pairs: Tensor, order: int
) -> PairModels:
    """Least squares over the samples of all epochs, from one matrix of lagged products."""
    n, n_channels = x.shape[-1], x.shape[-2]
    lagged = torch.stack([x[..., order - k : n - k] for k in range(order + 1)], -3)
    flat = lagged.flatten(-3, -2).movedim(-3, -2).flatten(-2, -1)
    moments = flat @ flat.mT / flat.shape[-1]
    size = (order + 1, n_channels)
    moments = torch.unflatten(torch.unflatten(moments, -1, size), -3, size)
    # (..., lag, channel, lag, channel) to (..., pair, lag, 2, lag, 2).
    rows, columns = pairs[:, :, None], pairs[:, None, :]
    found = moments.movedim((-4, -2), (0, 1))[..., rows, columns].movedim((0, 1), (-4, -2))
    own = found[..., :1, :, :1, :].flatten(-2).flatten(-3, -2)
    past = found[..., 1:, :, 1:, :].flatten(-2).flatten(-3, -2)
    across = found[..., :1, :, 1:, :].flatten(-2).flatten(-3, -2)
    inverse = torch.linalg.pinv(past, rtol=_DEPENDENT, hermitian=True)
    weights = across @ inverse
    rest = own - weights @ across.mT
    least = _LEAST * own.diagonal(dim1=-2, dim2=-1)
    # A channel that the past tells exactly would have a variance of rounding, or none.
    lift = (least - rest.diagonal(dim1=-2, dim2=-1)).clamp(min=0)
    noise = (rest + rest.mT) / 2 + torch.diag_embed(lift)
    return PairModels(torch.unflatten(weights, -1, (order, 2)).movedim(-2, -3), noise)


def radius(coefficients: Float[Tensor, "*batch order 2 2"]) -> Float[Tensor, "*batch"]:
    """Largest modulus of the eigenvalues of the companion matrix; below 1 it is stable."""
    order = coefficients.shape[-3]
    top = coefficients.movedim(-3, -2).flatten(-2)
    shift = torch.eye(2 * (order - 1), 2 * order, dtype=top.dtype, device=top.device)
    companion = torch.cat([top, shift.expand(*top.shape[:-2], -1, -1)], -2)
    largest: Tensor = torch.linalg.eigvals(companion).abs().amax(-1)
    return largest


def time_causality(models: PairModels) -> Float[Tensor, "*batch pair 2"]:
    r"""Log ratio of the innovation variances without and with the other channel.

    The variance without it follows from the spectrum of the channel in the model of both, as the
    mean of its logarithm (Kolmogorov); the poles of a stable model add nothing to that mean. On a
    periodic grid the mean converges exponentially, so the grid doubles until it stands still.
    """
    n = _FIRST
    value = _mean_log_ratio(models, n)
    while n < _LAST:
        n *= 2
        finer = _mean_log_ratio(models, n)
        still = bool(((finer - value).abs() < _CLOSE).all())
        value = finer
        if still:
            break
    return value


def spectral_causality(
    models: PairModels, turn: Float[Tensor, "freq"]
) -> Float[Tensor, "*batch pair 2 freq"]:
    """Geweke's measure at the angles `turn`, to the first and to the second channel."""
    own, other = _parts(models, turn)
    value: Tensor = torch.log1p(other / own)
    return value


def _mean_log_ratio(models: PairModels, n: int) -> Float[Tensor, "*batch pair 2"]:
    middle = torch.arange(n, dtype=models.noise.dtype, device=models.noise.device) + 0.5
    own, other = _parts(models, torch.pi * middle / n)
    variance = models.noise.diagonal(dim1=-2, dim2=-1)
    return (own + other).log().mean(-1) - variance.log()


def _parts(
    models: PairModels, turn: Float[Tensor, "freq"]
) -> tuple[Float[Tensor, "*batch pair 2 freq"], Float[Tensor, "*batch pair 2 freq"]]:
    r"""Spectra times $|\det A|^2$: the part of a channel's own noise and that of the other.

    The inverse of the operator A is its adjugate over its determinant, which cancels in every
    ratio. With $\Sigma$ made diagonal (Geweke 1982) both parts are positive:
    $\Sigma_{ii} |A_{jj} - A_{ij} \Sigma_{ij} / \Sigma_{ii}|^2$ and
    $(\Sigma_{jj} - \Sigma_{ij}^2 / \Sigma_{ii}) |A_{ij}|^2$.
    """
    operator = _operator(models.coefficients, turn)
    variance = models.noise.diagonal(dim1=-2, dim2=-1)
    shared = models.noise[..., 0, 1].unsqueeze(-1) / variance
    alone = operator.diagonal(dim1=-3, dim2=-2).mT.flip(-2)
    into = torch.stack([operator[..., 0, 1, :], operator[..., 1, 0, :]], -2)
    own = variance.unsqueeze(-1) * _square(alone - shared.unsqueeze(-1) * into)
    left = variance.flip(-1) - shared.square() * variance
    # Copies leave nothing but rounding, of either sign.
    left = torch.where(left > _LEAST * variance.flip(-1), left, 0.0)
    tiny = torch.finfo(own.dtype).tiny
    return own.clamp(min=tiny), left.unsqueeze(-1) * _square(into)


def _operator(
    coefficients: Float[Tensor, "*batch order 2 2"], turn: Float[Tensor, "freq"]
) -> Tensor:
    r"""$I - \sum_k A_k e^{-i k \theta}$ at angles $\theta$, (..., 2, 2, freq)."""
    k = torch.arange(1, coefficients.shape[-3] + 1, dtype=turn.dtype, device=turn.device)
    angle = k[:, None] * turn
    wave = torch.polar(torch.ones_like(angle), -angle)
    eye = torch.eye(2, dtype=turn.dtype, device=turn.device).unsqueeze(-1)
    return eye - coefficients.movedim(-3, -1).to(wave.dtype) @ wave


def _square(value: Tensor) -> Tensor:
    return value.real.square() + value.imag.square()
