"""Causal, cumulative statistics of a channel: what is known about it up to each patch."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuros_neurofm.tokenizers._memory import NOTHING, Memory

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


def cumulative_moments(
    x: Float[Tensor, "batch patch sample channel"],
    valid: Bool[Tensor, "batch patch sample channel"],
    memory: Memory = NOTHING,
) -> Moments:
    """Running count, mean and variance of each channel, each (batch, patch, channel)."""
    # Sums of x - x_first keep the digits that sums of x^2 lose when the mean is large, and
    # the first valid sample is the one reference that looks at no later sample.
    reference = memory.first("reference", x.flatten(1, 2), valid.flatten(1, 2))
    weight = valid.to(x.dtype)
    deviation = (x - reference.unsqueeze(1)) * weight
    count = memory.accumulate("count", weight.sum(2))
    n = count.clamp_min(1.0)
    shift = memory.accumulate("sum", deviation.sum(2)) / n
    square = memory.accumulate("square", deviation.square().sum(2))
    var = (square / n - shift.square()).clamp_min(0.0).to(x.dtype)
    mean = (reference + shift).to(x.dtype) * (count > 0)
    return Moments(count.to(x.dtype), mean, var)


def unit_statistics(
    x: Float[Tensor, "batch patch sample channel"],
    valid: Bool[Tensor, "batch patch sample channel"],
    memory: Memory = NOTHING,
) -> Float[Tensor, "batch patches channel statistic"]:
    """Label-free description of each channel before the first patch and after each patch.

    Level, spread, Fano factor, amount of data and the autocorrelation at eight octave lags, each
    squashed to order one. Row 0 of a recording knows no data and is zero.
    """
    moments = cumulative_moments(x, valid, memory)
    known = (moments.n > 0).to(x.dtype)
    spread = 0.5 * (moments.var + _TINY).log()
    fano = (moments.var + _TINY).log() - (moments.mean.abs() + _TINY).log()
    level = moments.mean.tanh()
    amount = moments.n.log1p() / 10
    basic = torch.stack([level, (spread / 4).tanh(), (fano / 4).tanh(), amount], dim=-1)
    lags = _autocorrelation(x, valid, moments.var, memory)
    statistics = torch.cat([basic, lags], dim=-1) * known.unsqueeze(-1)
    return memory.extend("statistics", statistics, 1)


def _autocorrelation(
    x: Float[Tensor, "batch patch sample channel"],
    valid: Bool[Tensor, "batch patch sample channel"],
    var: Float[Tensor, "batch patch channel"],
    memory: Memory,
) -> Float[Tensor, "batch patch channel lag"]:
    batch, patches, size, channels = x.shape
    flat, ok = x.flatten(1, 2), valid.flatten(1, 2).to(x.dtype)
    deviation = (flat - memory.first("origin", flat, valid.flatten(1, 2))) * ok
    furthest = LAGS[-1]
    pasts, oks = memory.extend("past", deviation, furthest), memory.extend("ok", ok, furthest)
    rows = []
    # One lag after the other: all at once would hold eight copies of the recording.
    for lag in LAGS:
        then = pasts.narrow(1, furthest - lag, flat.shape[1])
        pair = ok * oks.narrow(1, furthest - lag, flat.shape[1])
        rows += [pair, deviation * pair, then * pair, deviation * then]
    sums = [row.view(batch, patches, size, channels).sum(2) if size > 1 else row for row in rows]
    total = memory.accumulate("lags", torch.stack(sums, 2))
    total = total.view(batch, patches, len(LAGS), 4, channels)
    n, now_sum, then_sum, product = total.unbind(3)
    m = n.clamp_min(1.0)
    covariance = (product / m - now_sum / m * (then_sum / m)).to(x.dtype)
    columns: Tensor = (covariance / (var + _TINY).unsqueeze(2)).clamp(-1.0, 1.0) * (n > 0)
    return columns.transpose(2, 3)
