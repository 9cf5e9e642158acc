"""Synapses: conductance kernels, and release that depresses and facilitates."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from neuros_mechint._arrays import compute_dtype, one_of
from neuros_mechint._kernels import exponential, rise_and_decay, rise_scale
from neuros_mechint._numbers import NumberOrTensor, hold_numbers, positive, shown_numbers
from neuros_mechint.biophysical._arguments import floating
from neuros_mechint.biophysical._decay import decayed, shifted
from neuros_mechint.biophysical._events import events, shaped
from neuros_mechint.biophysical._release import ShortTermPlasticity, STPOutput

__all__ = ["STPOutput", "ShortTermPlasticity", "SynapticDynamics"]

SynapseKind: TypeAlias = Literal[
    "exponential", "alpha", "biexponential", "AMPA", "NMDA", "GABA_A", "GABA_B"
]
Normalization: TypeAlias = Literal["peak", "area"]

# Rise and decay in ms, reversal potential in mV.
_RECEPTORS = {
    "AMPA": (0.5, 3.0, 0.0),
    "NMDA": (4.0, 100.0, 0.0),
    "GABA_A": (0.5, 8.0, -70.0),
    "GABA_B": (30.0, 150.0, -95.0),
    "biexponential": (1.0, 5.0, 0.0),
}
_SINGLE = ("exponential", "alpha")


class SynapticDynamics(nn.Module):
    r"""Conductance after spikes, $g_t = g_{\max} \sum_{s \le t} S_s\, K((t - s)\,dt)$.

    | kind | kernel K | time constants, ms |
    |---|---|---|
    | `"exponential"` | $e^{-t/\tau}$ | tau 5 |
    | `"alpha"` | $(t/\tau)\, e^{1 - t/\tau}$ | tau 5 |
    | others | $e^{-t/\tau_d} - e^{-t/\tau_r}$ over its peak | rise and decay |

    The others are `"biexponential"` (1, 5), `"AMPA"` (0.5, 3), `"NMDA"` (4, 100), `"GABA_A"`
    (0.5, 8) and `"GABA_B"` (30, 150). The kernel is sampled exactly, for any step.

    Args:
        kind: Which of them.
        tau: Time constant of `"exponential"` and `"alpha"`, ms.
        tau_rise: Time constant of the rise of the others, ms.
        tau_decay: That of their decay, ms; where both are equal the kernel is the alpha function.
        g_max: Conductance at the peak of one spike's kernel, a float or a tensor (n,).
        E_rev: Reversal potential, mV; None takes that of the kind: 0, -70 for `"GABA_A"`, -95 for
            `"GABA_B"`.
        mg: Magnesium outside the cell, mM; it blocks `"NMDA"`.
        normalize: `"peak"`: K is 1 at its peak; `"area"`: K has the integral 1, in 1/ms.
        learnable: Names among `tau`, `tau_rise`, `tau_decay`, `g_max` that become parameters.

    Raises:
        TypeError: When a number is neither a float nor a floating tensor.
        ValueError: When a time constant is not a single positive number, the rise is longer than
            the decay, or a kind is given a time constant that it does not have.

    Examples:
        >>> spikes = torch.tensor([1.0, 0.0, 0.0, 1.0])
        >>> SynapticDynamics("alpha", tau=2.0)(spikes)
        tensor([0.0000, 0.8244, 1.0000, 0.9098])

    References:
        Jahr & Stevens (1990), Journal of Neuroscience 10, 3178-3182.
            doi:10.1523/JNEUROSCI.10-09-03178.1990
        Roth & van Rossum (2009), Modeling synapses. In: Computational Modeling Methods for
            Neuroscientists. doi:10.7551/mitpress/9780262013277.003.0007
    """

    tau: Tensor
    tau_rise: Tensor
    tau_decay: Tensor
    g_max: Tensor

    def __init__(
        self,
        kind: SynapseKind = "exponential",
        *,
        tau: NumberOrTensor | None = None,
        tau_rise: NumberOrTensor | None = None,
        tau_decay: NumberOrTensor | None = None,
        g_max: NumberOrTensor = 1.0,
        E_rev: float | None = None,
        mg: float = 1.0,
        normalize: Normalization = "peak",
        learnable: Sequence[str] = (),
    ) -> None:
        super().__init__()
        one_of("kind", kind, get_args(SynapseKind))
        one_of("normalize", normalize, get_args(Normalization))
        self.kind: SynapseKind = kind
        self.normalize: Normalization = normalize
        given = {"tau": tau, "tau_rise": tau_rise, "tau_decay": tau_decay}
        rise, decay, reversal = _RECEPTORS.get(kind, (0.0, 0.0, 0.0))
        defaults = {"tau": 5.0} if kind in _SINGLE else {"tau_rise": rise, "tau_decay": decay}
        extra = [
            name for name, value in given.items() if value is not None and name not in defaults
        ]
        if extra:
            raise ValueError(
                f"kind={kind!r} has no {' and '.join(extra)}; it takes {' and '.join(defaults)}"
            )
        times: dict[str, NumberOrTensor] = {}
        for name, default in defaults.items():
            value = given[name]
            times[name] = default if value is None else value
        positive(times)
        positive({"g_max": g_max, "mg": mg}, zero=True)
        for name, value in times.items():
            # The trace of a kernel is one product of matrices for all units.
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(
                    f"{name} must be a single number, got shape {tuple(value.shape)}; make one "
                    "SynapticDynamics for each time constant"
                )
        self.number_names = (*times, "g_max")
        hold_numbers(self, {**times, "g_max": g_max}, learnable)
        if kind not in _SINGLE:
            rise, decay = (float(getattr(self, name).detach()) for name in times)
            if rise > decay:
                raise ValueError(
                    f"tau_rise must be at most tau_decay, got {rise:g} and {decay:g} ms; "
                    "exchange them"
                )
        self.E_rev = reversal if E_rev is None else float(E_rev)
        self.mg = float(mg)

    def extra_repr(self) -> str:
        """Kind and numbers, for printing."""
        return f"{self.kind!r}, {shown_numbers(self, self.number_names)}, E_rev={self.E_rev:g}"

    def kernel(self, t: Tensor) -> Tensor:
        """The conductance of one spike.

        Args:
            t: Times after the spike in ms, of any shape; negative ones are before it.

        Returns:
            K without `g_max`, shaped as t.

        Raises:
            TypeError: When t is not a floating tensor.
        """
        floating("t", t)
        wide = t.to(compute_dtype(t.dtype))
        rise, decay, scale = self._times(wide)
        value = exponential(wide, decay) if rise is None else rise_and_decay(wide, rise, decay)
        return (scale * value).to(t.dtype)

    def forward(self, spikes: Tensor, dt: float = 1.0) -> Tensor:
        """Conductance over time.

        Args:
            spikes: Spikes, or any weights of them, (..., time, n) or (time,).
            dt: Length of a step, ms.

        Returns:
            Conductance shaped as spikes, in their dtype.

        Raises:
            TypeError: When spikes are not a floating tensor.
            ValueError: When they are empty in time or not finite, or dt is not positive.
        """
        x = events("spikes", spikes, dt)
        rise, decay, scale = self._times(x)
        g = decayed(x, dt / decay)
        if rise is not None:
            # What two states pass on: a new spike's kernel is 0, and k(dt) a step later.
            first = rise_and_decay(torch.full_like(decay, dt), rise, decay)
            g = decayed(first * shifted(g), dt / rise)
        g = self.g_max.to(x) * scale * g
        return shaped(g, spikes)

    def init_state(self, like: Tensor) -> Tensor:
        """The state without spikes: two numbers per unit, (2, ..., n).

        Args:
            like: A tensor (..., n) of the units.
        """
        return torch.zeros(2, *like.shape, dtype=like.dtype, device=like.device)

    def step(self, spikes: Tensor, state: Tensor, dt: float) -> tuple[Tensor, Tensor]:
        """One step, for use inside a recurrence.

        Args:
            spikes: Spikes of the step (..., n).
            state: State before it (2, ..., n).
            dt: Length of the step, ms.

        Returns:
            Conductance (..., n) and the state after the step.
        """
        rise, decay, scale = self._times(state)
        fast, slow = state.unbind(0)
        if rise is not None:
            first = rise_and_decay(torch.full_like(decay, dt), rise, decay)
            fast = fast * (-dt / rise).exp() + first * slow
        slow = slow * (-dt / decay).exp() + spikes
        g = self.g_max.to(state) * scale * (slow if rise is None else fast)
        return g, torch.stack([fast, slow])

    def current(self, g: Tensor, v: Tensor) -> Tensor:
        r"""Current of a conductance at a potential, $g\,B(v)\,(E_\mathrm{rev} - v)$.

        For `"NMDA"` $B(v) = 1 / (1 + [\mathrm{Mg}]/3.57 \cdot e^{-0.062 v})$, else 1.

        Args:
            g: Conductance.
            v: Potential in mV, which broadcasts with g.

        Returns:
            The current, positive where it depolarises.

        Examples:
            >>> one, at = torch.tensor(1.0), torch.tensor(-60.0)
            >>> float(SynapticDynamics("AMPA").current(one, at))
            60.0
        """
        force = self.E_rev - v
        if self.kind == "NMDA":
            force = force / (1 + self.mg / 3.57 * torch.exp(-0.062 * v))
        return g * force

    def _times(self, like: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Rise (None: immediate), decay, and the factor of the kernel."""
        if self.kind in _SINGLE:
            tau: Tensor = self.tau.to(like)
            if self.kind == "exponential":
                scale = 1 / tau if self.normalize == "area" else torch.ones_like(tau)
                return None, tau, scale
            return tau, tau, rise_scale(tau, tau, self.normalize)
        rise, decay = self.tau_rise.to(like), self.tau_decay.to(like)
        return rise, decay, rise_scale(rise, decay, self.normalize)
