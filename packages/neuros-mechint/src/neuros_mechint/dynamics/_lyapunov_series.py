"""The largest exponent of a recorded series (Rosenstein 1993)."""

import warnings
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["SeriesLyapunov", "rosenstein"]

# Below this R2 the fitted part of the divergence curve is not a line.
_LINEAR = 0.9
# Distances held at once, 32 MB in float64.
_CELLS = 4_000_000


class SeriesLyapunov(NamedTuple):
    """Largest exponent of a series, with the curve that it is the slope of.

    Attributes:
        exponent: Slope per unit of time, (...).
        divergence: Mean logarithm of the distance after each step, (..., step).
        steps: The steps of the curve, (step,).
        fit_r2: R2 of the fitted line, (...).

    Examples:
        >>> SeriesLyapunov._fields
        ('exponent', 'divergence', 'steps', 'fit_r2')
    """

    exponent: Tensor
    divergence: Tensor
    steps: Tensor
    fit_r2: Tensor

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return self._asdict()


def rosenstein(
    x: Float[Tensor, "*batch time"],
    *,
    emb_dim: int,
    lag: int,
    theiler: int,
    fit_range: tuple[int, int],
    dt: float,
) -> SeriesLyapunov:
    """Slope of the mean log distance of neighbours in the delay embedding.

    Pairs at distance 0 are skipped: their logarithm says nothing about the flow.
    """
    first, last = fit_range
    if emb_dim < 1 or lag < 1 or theiler < 0:
        raise ValueError(
            "emb_dim and lag must be at least 1 and theiler at least 0, got "
            f"emb_dim={emb_dim}, lag={lag}, theiler={theiler}"
        )
    if not 0 <= first < last:
        raise ValueError(f"fit_range must be (first, last) with 0 <= first < last, got {fit_range}")
    if not dt > 0:
        raise ValueError(f"dt must be above 0, got {dt}")
    needed = (emb_dim - 1) * lag + last + 2 * theiler + 3
    if x.shape[-1] < needed:
        raise ValueError(
            f"x needs at least {needed} samples along its last axis, got {x.shape[-1]}; lower "
            "emb_dim, lag, theiler or fit_range"
        )
    # As many series at a time as their distances fit into one block.
    at_once = max(1, _CELLS // x.shape[-1] ** 2)
    blocks = torch.split(x.reshape(-1, x.shape[-1]), at_once)
    curve = torch.cat([_divergence(rows, emb_dim, lag, theiler, last) for rows in blocks])
    steps = torch.arange(last + 1, dtype=x.dtype, device=x.device)
    slope, r2 = _line(steps[first:], curve[:, first:])
    if bool((r2 < _LINEAR).any()):
        warnings.warn(
            f"the divergence curve is not a line over steps {first} to {last} (R2 "
            f"{float(r2.amin()):.2f}); choose fit_range where it rises straight",
            stacklevel=3,
        )
    lead = x.shape[:-1]
    return SeriesLyapunov(
        (slope / dt).reshape(lead), curve.reshape(*lead, -1), steps * dt, r2.reshape(lead)
    )


def _divergence(
    x: Float[Tensor, "row time"], emb_dim: int, lag: int, theiler: int, last: int
) -> Float[Tensor, "row step"]:
    """Mean log distance to the neighbour of the start, after each step."""
    states = x.unfold(-1, (emb_dim - 1) * lag + 1, 1)[..., ::lag]
    n = states.shape[-2] - last
    near = torch.cdist(states[:, :n], states[:, :n])
    at = torch.arange(n, device=x.device)
    excluded = (at.unsqueeze(0) - at.unsqueeze(1)).abs() <= theiler
    partner = near.masked_fill(excluded | (near == 0), torch.inf).argmin(-1)
    steps = torch.arange(last + 1, device=x.device).unsqueeze(1)
    row = torch.arange(len(x), device=x.device)[:, None, None]
    gap = (states[:, at + steps] - states[row, partner.unsqueeze(1) + steps]).norm(dim=-1)
    there = gap > 0
    logs = torch.where(there, gap, 1.0).log()
    mean: Tensor = logs.sum(-1) / there.sum(-1).clamp(min=1)
    return mean


def _line(
    t: Float[Tensor, " step"], y: Float[Tensor, "row step"]
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """Slope and R2 of least squares."""
    dt, dy = t - t.mean(), y - y.mean(-1, keepdim=True)
    slope = (dt * dy).sum(-1) / dt.square().sum()
    left = (dy - slope.unsqueeze(-1) * dt).square().sum(-1)
    total = dy.square().sum(-1)
    return slope, torch.where(total > 0, 1 - left / total.where(total > 0, 1.0), 1.0)
