"""Times at which a sampled potential crosses a threshold."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuros_mechint.biophysical._arguments import check_dt, floating

__all__ = ["SpikeTimes", "crossing_times"]


class SpikeTimes(NamedTuple):
    """Upward crossings of a threshold.

    Attributes:
        times: Times in ms (..., crossing, n), in order, `inf` after a unit's last one.
        counts: Number of crossings (..., n).
    """

    times: Tensor
    counts: Tensor


def crossing_times(voltage: Tensor, dt: float, threshold: float = 0.0) -> SpikeTimes:
    r"""Times of upward crossings, linearly interpolated between samples.

    Sample $t$ is the potential at $(t + 1)\,dt$, as the neurons of this package return it. A
    crossing lies between two samples with $V_{t-1} < \theta \le V_t$, at
    $(t + (\theta - V_{t-1}) / (V_t - V_{t-1}))\,dt$. Times carry gradients to the potential.

    Args:
        voltage: Potential (..., time, n), or (time,) of one unit.
        dt: Time between samples, ms.
        threshold: Potential to cross, mV.

    Returns:
        Times (..., crossing, n) and counts (..., n); (crossing,) and () for one unit.

    Raises:
        TypeError: When the potential is not a floating tensor.
        ValueError: When dt is not positive, or there is no time axis or no sample.

    Examples:
        >>> crossing_times(torch.tensor([-2.0, -1.0, 3.0, -1.0, 0.0]), dt=0.5).times.tolist()
        [1.125, 2.5]
    """
    floating("voltage", voltage)
    check_dt(dt)
    one = voltage.ndim == 1
    v = voltage[:, None] if one else voltage
    if v.ndim < 2 or v.shape[-2] < 1:
        raise ValueError(
            f"voltage must be (..., time >= 1, n) or (time >= 1,), got shape {tuple(voltage.shape)}"
        )
    times, counts = _crossings(v, dt, threshold)
    return SpikeTimes(times[:, 0], counts[0]) if one else SpikeTimes(times, counts)


def _crossings(
    v: Float[Tensor, "*batch time unit"], dt: float, threshold: float
) -> tuple[Float[Tensor, "*batch crossing unit"], Int[Tensor, "*batch unit"]]:
    before, after = v[..., :-1, :], v[..., 1:, :]
    crossed = (before < threshold) & (after >= threshold)
    counts = crossed.sum(-2)
    most = int(counts.max()) if counts.numel() else 0
    n = crossed.shape[-2]
    at = torch.arange(n, device=v.device)[:, None].expand(crossed.shape)
    order = torch.where(crossed, at, n).sort(dim=-2).values[..., :most, :]
    kept = order < n
    order = order.clamp(max=max(n - 1, 0))
    low, high = before.gather(-2, order), after.gather(-2, order)
    # Where there is no crossing the quotient must stay finite, for its gradient.
    part = (threshold - low) / torch.where(kept, high - low, 1.0)
    return torch.where(kept, (order + 1 + part) * dt, math.inf), counts
