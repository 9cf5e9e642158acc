"""Distance from criticality of spreading activity, from a few of its units."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real

__all__ = ["AvalancheCriticality", "AvalancheResult"]

_GRID, _REFINEMENTS = 401, 6


@dataclass(frozen=True, eq=False)
class AvalancheResult:
    """Branching ratio and the fit that it comes from.

    Attributes:
        branching_ratio: Units that one active unit activates on average, (...); 1 is critical.
        amplitude: Factor of the exponential, 1 when all units are seen, (...).
        slopes: Regression slope of every lag, (..., lags).
        lags: Lags in samples, (lags,).
        timescale: Autocorrelation time in the unit of `dt`, (...); infinite from ratio 1 on.
    """

    branching_ratio: Tensor
    amplitude: Tensor
    slopes: Tensor
    lags: Tensor
    timescale: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists.

        Returns:
            Field name -> value.

        Examples:
            >>> activity = 0.5 ** torch.arange(40.0)
            >>> round(AvalancheCriticality(max_lag=5).compute(activity).to_dict()["timescale"], 1)
            1.4
        """
        return {name: value.tolist() for name, value in vars(self).items()}


class AvalancheCriticality:
    r"""Branching ratio by multistep regression.

    The slope of the regression of $A_{t+k}$ on $A_t$ is $r_k = b\,m^k$. To see only some of the
    units lowers b and leaves the branching ratio m, which is why one lag alone is biased and the
    decay over lags is not.

    Args:
        max_lag: Largest lag in samples; needs to cover a good part of the decay.
        dt: Time from one sample to the next.

    Raises:
        ValueError: When `max_lag` is below 2 or `dt` not positive.

    Examples:
        >>> activity = 0.9 ** torch.arange(200.0)
        >>> round(float(AvalancheCriticality(max_lag=10).compute(activity).branching_ratio), 3)
        0.9

    References:
        Wilting, J. & Priesemann, V. (2018). Inferring collective dynamical states from widely
        unobserved systems. Nature Communications 9, 2325. doi:10.1038/s41467-018-04725-4
    """

    def __init__(self, *, max_lag: int = 100, dt: Number = 1.0) -> None:
        if max_lag < 2:
            raise ValueError(f"max_lag must be at least 2 to see a decay, got {max_lag}")
        if not dt > 0:
            raise ValueError(f"dt must be above 0, got {dt}")
        self.max_lag = max_lag
        self.dt = dt

    def __repr__(self) -> str:
        return f"AvalancheCriticality(max_lag={self.max_lag}, dt={self.dt})"

    def compute(self, activity: Array) -> AvalancheResult:
        """Estimate the branching ratio.

        Args:
            activity: Summed activity of the units that are seen, (..., time).

        Returns:
            The ratio, one per series, and the fit.

        Raises:
            TypeError: When the activity is not a real tensor or array.
            ValueError: When it is too short for the lags, constant, or holds NaN or inf.
        """
        need = 2 * self.max_lag
        given = as_real("activity", activity, axes=("time",), at_least=(need,))
        series = given.double()
        if bool((series == series[..., :1]).all(-1).any()):
            raise ValueError("activity must vary over time, got a constant series; leave it out")
        slopes = _slopes(series, self.max_lag)
        ratio, amplitude = _fit(slopes)
        decay = -self.dt / ratio.log()
        timescale = torch.where(ratio < 1, decay, torch.full_like(decay, torch.inf))
        lags = torch.arange(1, self.max_lag + 1, device=series.device)
        ratio, amplitude, slopes, timescale = (
            x.to(given.dtype) for x in (ratio, amplitude, slopes, timescale)
        )
        return AvalancheResult(ratio, amplitude, slopes, lags, timescale)


def _slopes(series: Float64[Tensor, "*batch time"], max_lag: int) -> Float64[Tensor, "*batch lag"]:
    n = series.shape[-1]
    found = []
    for lag in range(1, max_lag + 1):
        early, late = series[..., : n - lag], series[..., lag:]
        early = early - early.mean(-1, keepdim=True)
        late = late - late.mean(-1, keepdim=True)
        found.append((early * late).sum(-1) / early.square().sum(-1))
    return torch.stack(found, dim=-1)


def _fit(
    slopes: Float64[Tensor, "*batch lag"],
) -> tuple[Float64[Tensor, "*batch"], Float64[Tensor, "*batch"]]:
    """Least squares of b m^k: b follows from m, and m is found on ever finer grids."""
    lag = torch.arange(1, slopes.shape[-1] + 1, dtype=slopes.dtype, device=slopes.device)
    low = torch.full(slopes.shape[:-1], 1e-6, dtype=slopes.dtype, device=slopes.device)
    high = torch.full_like(low, 1.2)
    unit = torch.linspace(0, 1, _GRID, dtype=slopes.dtype, device=slopes.device)
    for _ in range(_REFINEMENTS):
        ratio = low[..., None] + (high - low)[..., None] * unit
        shape = ratio[..., None] ** lag
        overlap = (shape * slopes[..., None, :]).sum(-1)
        # The error is |r|^2 - overlap^2 / |shape|^2; a negative amplitude is no branching.
        gain = overlap.clamp(min=0).square() / shape.square().sum(-1)
        best = gain.argmax(-1, keepdim=True)
        width = (high - low) / (_GRID - 1)
        centre = ratio.gather(-1, best)[..., 0]
        low, high = (centre - width).clamp(min=1e-9), centre + width
    powers = centre[..., None] ** lag
    return centre, (powers * slopes).sum(-1) / powers.square().sum(-1)
