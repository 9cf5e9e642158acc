"""Spikes at the boundary: checked, and given back in the shape they came in."""

from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import compute_dtype
from neuros_mechint.biophysical._arguments import check_dt, check_finite, floating

__all__ = ["binary_events", "events", "shaped"]


def binary_events(name: str, spikes: Tensor, dt: float) -> Float[Tensor, "*batch time unit"]:
    """Spikes that are 0 or 1, in the dtype to compute in.

    Raises:
        TypeError: When they are not a floating tensor.
        ValueError: When a value is neither 0 nor 1, time is empty, or dt is not positive.
    """
    x = events(name, spikes, dt)
    seen = x.detach()
    # 0 and 1 are the finite numbers that are their own square.
    if bool((seen * seen).sub_(seen).abs_().max() > 0):
        other = seen[(seen != 0) & (seen != 1)]
        raise ValueError(f"{name} must be 0 or 1, got {float(other[0]):g}")
    return x


def events(name: str, spikes: Tensor, dt: float) -> Float[Tensor, "*batch time unit"]:
    """Spikes (..., time, n) in the dtype to compute in; (time,) is one unit.

    Raises:
        TypeError: When they are not a floating tensor.
        ValueError: When time is empty, a value is not finite, or dt is not positive.
    """
    floating(name, spikes)
    check_dt(dt)
    x = spikes[:, None] if spikes.ndim == 1 else spikes
    if x.ndim < 2 or x.shape[-2] < 1:
        raise ValueError(
            f"{name} must be (..., time >= 1, n) or (time >= 1,), got {tuple(spikes.shape)}"
        )
    check_finite(name, x)
    return x.to(compute_dtype(x.dtype))


def shaped(x: Tensor, spikes: Tensor) -> Tensor:
    """A result in the dtype of the spikes, 1-dimensional where they were."""
    alone = spikes.ndim == 1 and x.shape[-1] == 1
    return (x[..., 0] if alone else x).to(spikes.dtype)
