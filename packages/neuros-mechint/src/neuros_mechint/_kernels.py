r"""Kernels of synapses and fields, sampled: what one spike adds at a time after it.

Two exponentials of nearly equal time constants differ by less than they are rounded to. So all of
it is written as $e^{-t/\tau_d}\, t\, \phi(a t)$ with $a = 1/\tau_r - 1/\tau_d$ and
$\phi(z) = (1 - e^{-z})/z$, which is smooth where they meet: the alpha function.
"""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["exponential", "rise_and_decay", "rise_scale"]


def exponential(t: Float[Tensor, "*axes"], tau: Float[Tensor, "..."]) -> Float[Tensor, "*axes"]:
    r"""$e^{-t/\tau}$, 0 before the spike; its area is tau.

    Args:
        t: Time after the spike.
        tau: Time constant in the same unit.

    Examples:
        >>> exponential(torch.tensor([-1.0, 0.0, 5.0]), torch.tensor(5.0))
        tensor([0.0000, 1.0000, 0.3679])
    """
    return torch.where(t < 0, 0.0, (-t.clamp(min=0) / tau).exp())


def rise_and_decay(
    t: Float[Tensor, "*axes"], rise: Float[Tensor, "..."], decay: Float[Tensor, "..."]
) -> Float[Tensor, "*axes"]:
    r"""$(e^{-t/\tau_d} - e^{-t/\tau_r}) / a$, 0 before the spike; $t e^{-t/\tau}$ where they meet.

    Args:
        t: Time after the spike.
        rise: Time constant of the rise in the same unit.
        decay: That of the decay, at least as long.

    Examples:
        >>> rise_and_decay(torch.tensor([2.0]), torch.tensor(2.0), torch.tensor(2.0))
        tensor([0.7358])
    """
    later = t.clamp(min=0)
    return (-later / decay).exp() * later * _phi((1 / rise - 1 / decay) * later)


def rise_scale(
    rise: Float[Tensor, "..."], decay: Float[Tensor, "..."], normalize: str
) -> Float[Tensor, "..."]:
    """What `rise_and_decay` is multiplied with to have a peak, or an area, of 1."""
    if normalize == "area":
        return 1 / (rise * decay)
    ratio = decay / rise - 1
    peak = decay * _log_ratio(ratio)
    return 1 / rise_and_decay(peak, rise, decay)


def _phi(z: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """(1 - exp(-z)) / z, with the series where both sides vanish."""
    small = z < 1e-3
    series = 1 - z / 2 * (1 - z / 3 * (1 - z / 4 * (1 - z / 5)))
    # The other branch gets a harmless argument: its gradient at 0 would be NaN.
    large = z.where(~small, 1.0)
    return torch.where(small, series, -torch.expm1(-large) / large)


def _log_ratio(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """log(1 + x) / x, with the series near 0."""
    small = x < 1e-3
    series = 1 - x * (1 / 2 - x * (1 / 3 - x * (1 / 4 - x * (1 / 5 - x / 6))))
    large = x.where(~small, 1.0)
    return torch.where(small, series, torch.log1p(large) / large)
