"""Volumes of a scan: the haemodynamic response, one sample every repetition time."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.multiscale.bold import BalloonWindkessel

__all__ = ["n_volumes", "volumes"]

# Blood takes a second to follow: what happens within 10 ms reaches it as its mean.
_BLOCK = 0.01


def n_volumes(n_times: int, sampling_rate: float, tr: float) -> int:
    """How many repetition times lie within the samples."""
    return math.floor(n_times / (tr * sampling_rate) + 1e-9)


def volumes(
    balloon: BalloonWindkessel,
    activity: Float[Tensor, "*batch time"],
    sampling_rate: float,
    tr: float,
) -> Float[Tensor, "..."]:
    """The response at tr, 2 tr, ..., each at the nearest of its samples."""
    size = max(1, math.floor(_BLOCK * sampling_rate + 1e-9))
    n_times = activity.shape[-1]
    blocks = activity[..., : n_times // size * size].unfold(-1, size, size).mean(-1)
    response: Tensor = balloon(blocks, sampling_rate / size)
    every, last = tr * sampling_rate / size, blocks.shape[-1] - 1
    ends = [
        min(max(round(every * (k + 1)) - 1, 0), last)
        for k in range(n_volumes(n_times, sampling_rate, tr))
    ]
    return response.index_select(-1, torch.tensor(ends, device=response.device))
