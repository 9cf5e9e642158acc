"""Causal, cumulative statistics of a channel: what is known about it up to each patch."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

__all__ = ["LAGS", "N_STATISTICS", "Moments", "cumulative_moments", "unit_statistics"]

# Eight lags spaced by octaves, in samples.
LAGS = (1, 2, 4, 8, 16, 32, 64, 128)
N_STATISTICS = 4 + len(LAGS)
# Far below the variance of a signal in volts (1e-14 and more), far above the smallest float32.
_TINY = 1e-20


class Moments(NamedTuple):
    """Count, mean and variance over all valid samples up to the end of each patch."""

    n: Tensor
    mean: Tensor
    var: Tensor


def _first_valid(
    x: Float[Tensor, "batch time channel"], valid: Bool[Tensor, "batch time channel"]
) -> Float[Tensor, "batch 1 channel"]:
    # Sums of x - x_first keep the digits that sums of x^2 lose when the mean is large, and
    # the first valid sample is the one reference that looks at no later sample.
    first = valid.to(torch.uint8).argmax(1, keepdim=True)
    return x.gather(1, first)


def cumulative_moments(
    x: Float[Tensor, "batch patch sample channel"],
    valid: Bool[Tensor, "batch patch sample channel"],
) -> Moments:
    """Running count, mean and variance of each channel, each (batch, patch, channel)."""
    reference = _first_valid(x.flatten(1, 2), valid.flatten(1, 2))
    weight = valid.to(x.dtype)
    deviation = (x - reference.unsqueeze(1)) * weight
    count = weight.sum(2).cumsum(1)
    n = count.clamp_min(1.0)
    shift = deviation.sum(2).cumsum(1) / n
    var = (deviation.square().sum(2).cumsum(1) / n - shift.square()).clamp_min(0.0)
    return Moments(count, (reference + shift) * (count > 0), var)


def unit_statistics(
    x: Float[Tensor, "batch patch sample channel"],
    valid: Bool[Tensor, "batch patch sample channel"],
) -> Float[Tensor, "batch patches channel statistic"]:
    """Label-free description of each channel before the first patch and after each patch.

    Level, spread, Fano factor, amount of data and the autocorrelation at eight octave lags, each
    squashed to order one. Row 0 knows no data and is zero.
    """
    moments = cumulative_moments(x, valid)
    known = (moments.n > 0).to(x.dtype)
    spread = 0.5 * (moments.var + _TINY).log()
    fano = (moments.var + _TINY).log() - (moments.mean.abs() + _TINY).log()
    level = moments.mean.tanh()
    amount = moments.n.log1p() / 10
    basic = torch.stack([level, (spread / 4).tanh(), (fano / 4).tanh(), amount], dim=-1)
    lags = _autocorrelation(x, valid, moments.var)
    statistics = torch.cat([basic, lags], dim=-1) * known.unsqueeze(-1)
    return functional.pad(statistics, (0, 0, 0, 0, 1, 0))


def _autocorrelation(
    x: Float[Tensor, "batch patch sample channel"],
    valid: Bool[Tensor, "batch patch sample channel"],
    var: Float[Tensor, "batch patch channel"],
) -> Float[Tensor, "batch patch channel lag"]:
    batch, patches, size, channels = x.shape
    flat, ok = x.flatten(1, 2), valid.flatten(1, 2).to(x.dtype)
    deviation = (flat - _first_valid(flat, valid.flatten(1, 2))) * ok

    def running(values: Tensor) -> Tensor:
        return values.view(batch, patches, size, channels).sum(2).cumsum(1)

    columns = []
    for lag in LAGS:
        now, past = deviation, functional.pad(deviation, (0, 0, lag, 0))[:, : flat.shape[1]]
        pair = ok * functional.pad(ok, (0, 0, lag, 0))[:, : flat.shape[1]]
        n = running(pair)
        m = n.clamp_min(1.0)
        mean = running(now * pair) / m * (running(past * pair) / m)
        covariance = running(now * past) / m - mean
        columns.append((covariance / (var + _TINY)).clamp(-1.0, 1.0) * (n > 0))
    return torch.stack(columns, dim=-1)
