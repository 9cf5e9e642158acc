"""Release of transmitter that depresses and facilitates."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from neuros_mechint._numbers import NumberOrTensor, hold_numbers, positive, shown_numbers
from neuros_mechint.biophysical._decay import shifted
from neuros_mechint.biophysical._events import binary_events, shaped

__all__ = ["STPOutput", "ShortTermPlasticity"]


class STPOutput(NamedTuple):
    """What depressing and facilitating synapses release.

    Attributes:
        release: A u x at spikes, 0 elsewhere, (..., time, n).
        u: Share that a spike uses, after the rise by a spike of this step, (..., time, n).
        x: Share that is available, before the use by a spike of this step, (..., time, n).
    """

    release: Tensor
    u: Tensor
    x: Tensor


class ShortTermPlasticity(nn.Module):
    r"""Depression and facilitation of release, with exact decay between spikes.

    At a spike $u^+ = u^- + U (1 - u^-)$, $A\,u^+ x^-$ is released and $x^+ = x^- (1 - u^+)$;
    between spikes u falls to 0 with `tau_facil` and x rises to 1 with `tau_rec`. Both recursions
    are linear, x given u, so all steps are taken together.

    Args:
        U: Share used by a spike at rest, above 0 and at most 1.
        tau_rec: Time constant of recovery, ms.
        tau_facil: Time constant of facilitation, ms; 0 for none: $u^+ = U$.
        A: Release of the whole resource.
        learnable: Names among `U`, `tau_rec`, `tau_facil`, `A` that become parameters.

    Every number is a float or a tensor that broadcasts to (n,).

    Raises:
        TypeError: When a number is neither a float nor a floating tensor.
        ValueError: When U is not in (0, 1], tau_rec not positive, or tau_facil or A negative.

    Examples:
        >>> spikes = torch.tensor([1.0, 0.0, 1.0])
        >>> found = ShortTermPlasticity.depressing()(spikes, dt=400.0)
        >>> [round(value, 4) for value in found.release.tolist()]
        [0.5, 0.0, 0.408]

    References:
        Tsodyks, Pawelzik & Markram (1998), Neural Computation 10, 821-835.
            doi:10.1162/089976698300017502
    """

    U: Tensor

    def __init__(
        self,
        U: NumberOrTensor = 0.5,
        tau_rec: NumberOrTensor = 800.0,
        tau_facil: NumberOrTensor = 0.0,
        *,
        A: NumberOrTensor = 1.0,
        learnable: Sequence[str] = (),
    ) -> None:
        super().__init__()
        positive({"U": U, "tau_rec": tau_rec})
        positive({"tau_facil": tau_facil, "A": A}, zero=True)
        numbers = {"U": U, "tau_rec": tau_rec, "tau_facil": tau_facil, "A": A}
        hold_numbers(self, numbers, learnable)
        self.number_names = tuple(numbers)
        if float(self.U.detach().max()) > 1:
            raise ValueError(f"U must be at most 1, got {float(self.U.detach().max()):g}")

    @classmethod
    def depressing(cls) -> "ShortTermPlasticity":
        """U 0.5, recovery 800 ms, no facilitation."""
        return cls(0.5, 800.0, 0.0)

    @classmethod
    def facilitating(cls) -> "ShortTermPlasticity":
        """U 0.15, recovery 130 ms, facilitation 530 ms."""
        return cls(0.15, 130.0, 530.0)

    def extra_repr(self) -> str:
        """The numbers, for printing."""
        return shown_numbers(self, self.number_names)

    def forward(self, spikes: Tensor, dt: float = 1.0) -> STPOutput:
        """Release over time.

        Args:
            spikes: 0 or 1, (..., time, n) or (time,).
            dt: Length of a step, ms.

        Returns:
            Release, u and x shaped as spikes, in their dtype.

        Raises:
            TypeError: When spikes are not a floating tensor.
            ValueError: When they are not 0 or 1 or are empty in time, or dt is not positive.
        """
        s = binary_events("spikes", spikes, dt)
        U, tau_rec, tau_facil, A = (getattr(self, name).to(s) for name in self.number_names)
        # Without facilitation u is forgotten within a step; the quotient would be 0 / 0 at 0.
        lasting = tau_facil > 0
        kept = torch.where(lasting, (-dt / tau_facil.where(lasting, 1.0)).exp(), 0.0)
        stays = (-dt / tau_rec).exp()
        rest = kept * (1 - U * s)
        u_before = shifted(_affine(rest, kept * U * s))
        u = u_before + U * (1 - u_before) * s
        x_after = _affine(stays * (1 - u * s), (1 - stays).expand_as(s), start=1.0)
        x = functional.pad(x_after[..., :-1, :], (0, 0, 1, 0), value=1.0)
        release = A * u * x * s
        return STPOutput(*(shaped(part, spikes) for part in (release, u, x)))


def _affine(
    factor: Float[Tensor, "*batch time unit"],
    added: Float[Tensor, "*batch time unit"],
    *,
    start: float = 0.0,
) -> Float[Tensor, "*batch time unit"]:
    """y_t = factor_t y_(t-1) + added_t: maps of 1, 2, 4, ... steps are composed."""
    width = 1
    n_times = factor.shape[-2]
    while width < n_times:
        tail = slice(width, None)
        head = slice(None, n_times - width)
        added = torch.cat(
            [
                added[..., :width, :],
                added[..., tail, :] + factor[..., tail, :] * added[..., head, :],
            ],
            dim=-2,
        )
        factor = torch.cat(
            [factor[..., :width, :], factor[..., tail, :] * factor[..., head, :]], dim=-2
        )
        width *= 2
    return added + factor * start
