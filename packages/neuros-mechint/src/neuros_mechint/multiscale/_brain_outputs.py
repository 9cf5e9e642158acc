"""What is seen of a brain: its BOLD signal and how its connectivity changes."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.multiscale._volumes import n_volumes, volumes
from neuros_mechint.multiscale.bold import BalloonWindkessel

__all__ = ["Views", "bold_of", "changes", "correlation"]


class Views(NamedTuple):
    """Connectivity over time.

    Attributes:
        connectivity: Correlation of regions in each window, (..., window, region, region).
        fcd: Correlation of the windows' connectivity, (..., window, window).
    """

    connectivity: Tensor
    fcd: Tensor


def bold_of(
    lfp: Float[Tensor, "*batch region time"], dt: float, tr: float
) -> Float[Tensor, "*batch region volume"]:
    """Volumes of the haemodynamic response to a field potential less its mean over the run."""
    if n_volumes(lfp.shape[-1], 1 / dt, tr) == 0:
        return lfp[..., :0]
    drive = lfp - lfp.mean(-1, keepdim=True)
    # A set that has left the finite numbers takes no other along.
    finite = torch.isfinite(drive).all(-1, keepdim=True)
    response = volumes(BalloonWindkessel(), drive.where(finite, 0.0), 1 / dt, tr)
    return response.where(finite, torch.nan)


def correlation(x: Float[Tensor, "*batch row sample"]) -> Float[Tensor, "*batch row row"]:
    """Correlation of rows; 0 where a row is constant."""
    centred = x - x.mean(-1, keepdim=True)
    square = centred.square().sum(-1, keepdim=True)
    varies = square > 0
    unit = centred * torch.where(varies, square, 1.0).rsqrt() * varies
    return unit @ unit.mT


def changes(
    bold: Float[Tensor, "*batch region volume"], tr: float, window: float, step: float
) -> Views:
    """Connectivity in sliding windows, and how alike the windows are."""
    n_regions, n_volumes = bold.shape[-2:]
    size = round(window / tr)
    starts = [round(k * step / tr) for k in range(math.floor(n_volumes * tr / step) + 1)]
    starts = [start for start in starts if start + size <= n_volumes]
    if not starts:
        empty = bold.new_zeros(*bold.shape[:-2], 0, n_regions, n_regions)
        return Views(empty, bold.new_zeros(*bold.shape[:-2], 0, 0))
    windows = torch.stack([bold[..., start : start + size] for start in starts], dim=-3)
    connectivity = correlation(windows)
    row, column = torch.triu_indices(n_regions, n_regions, 1, device=bold.device).unbind()
    return Views(connectivity, correlation(connectivity[..., row, column]))
