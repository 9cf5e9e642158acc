"""Leaky integrate-and-fire neurons, by the exact flow between spikes."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import one_of
from neuros_mechint._autograd import applied
from neuros_mechint._numbers import positive
from neuros_mechint.biophysical._fused import use_fused
from neuros_mechint.biophysical._fused_lif import Way
from neuros_mechint.biophysical._fused_walk import FusedFireAndReset
from neuros_mechint.biophysical._lif_walk import FireAndReset, Rule, after_reset
from neuros_mechint.biophysical._neuron import (
    BiophysicalNeuronBase,
    Parameter,
    Run,
    State,
)
from neuros_mechint.biophysical.surrogate import Surrogate

__all__ = ["LeakyIntegrateFireNeuron"]


class LeakyIntegrateFireNeuron(BiophysicalNeuronBase):
    r"""Leaky integrate-and-fire neurons.

    $\tau\,\dot V = -(V - V_{rest}) + R I$, by its exact solution over a step,
    $V \leftarrow V_\infty + (V - V_\infty) e^{-dt/\tau}$ with $V_\infty = V_{rest} + R I$, so any
    step gives the same potentials at its samples. A neuron above its threshold fires. After a
    spike the potential is set to `v_reset` (`reset="hard"`), lowered by `v_threshold - v_reset`
    (`"soft"`), or left (`"none"`); without reset all steps are computed together instead of one
    after the other, and a run in two parts then agrees with a whole one up to rounding.

    The gradient through time is written by hand: no graph is kept per step.

    Args:
        tau_mem: Time constant of the membrane, ms.
        v_threshold: Potential above which a neuron fires.
        v_reset: Potential after a spike, below the threshold.
        v_rest: Potential without input, and at the start.
        resistance: Factor of the input current.
        t_ref: Time after a spike in which the potential stays at `v_reset`, ms, rounded to steps.
        reset: `hard`, `soft` or `none`.
        surrogate: Kind of `SurrogateGradient`, or a function of V - v_threshold.
        slope: Steepness of the surrogate; None takes the kind's default.
        detach_reset: Whether the gradient treats the reset as given. False differentiates through
            the reset by the surrogate as well.
        learnable: Names of the numbers above to train.
        backend: `eager` needs only torch. `fused` runs all steps in one compiled kernel, with the
            extra `neuros-mechint[fast]`, for a named surrogate and a reset, on the CPU. `auto`
            takes `fused` where it can, once it is compiled or from 2^23 steps times neurons on,
            which are worth the seconds of compiling.

    Raises:
        TypeError: When a number is neither a float nor a floating tensor.
        ValueError: When `v_reset` is not below `v_threshold`, a time is negative, a word is not
            one of those above, `t_ref` is given without a reset, or `fused` cannot run the
            surrogate or the reset.

    Examples:
        A neuron drawn towards 2 needs 10 ln 2 = 6.93 ms to reach 1, so it fires every 7 steps:

        >>> neuron = LeakyIntegrateFireNeuron()
        >>> neuron(torch.full((22,), 2.0)).spikes.nonzero().flatten().tolist()
        [6, 13, 20]

    References:
        Gerstner, W., Kistler, W. M., Naud, R., & Paninski, L. (2014). Neuronal Dynamics.
        Cambridge University Press. doi:10.1017/CBO9781107447615
    """

    state_names: ClassVar[tuple[str, ...]] = ("voltage", "refractory")
    default_dt: ClassVar[float] = 1.0
    tau_mem: Tensor
    v_threshold: Tensor
    v_reset: Tensor
    v_rest: Tensor
    resistance: Tensor
    t_ref: Tensor

    def __init__(
        self,
        tau_mem: Parameter = 10.0,
        v_threshold: Parameter = 1.0,
        v_reset: Parameter = 0.0,
        *,
        v_rest: Parameter = 0.0,
        resistance: Parameter = 1.0,
        t_ref: Parameter = 0.0,
        reset: str = "hard",
        surrogate: Surrogate = "fast_sigmoid",
        slope: float | None = 25.0,
        detach_reset: bool = True,
        learnable: Sequence[str] = (),
        backend: str = "auto",
    ) -> None:
        one_of("reset", reset, ("hard", "soft", "none"))
        one_of("backend", backend, ("auto", "eager", "fused"))
        super().__init__(
            {
                "tau_mem": tau_mem, "v_threshold": v_threshold, "v_reset": v_reset,
                "v_rest": v_rest, "resistance": resistance, "t_ref": t_ref,
            },
            surrogate=surrogate, slope=slope, detach_reset=detach_reset, learnable=learnable,
        )  # fmt: skip
        positive({"tau_mem": tau_mem})
        positive({"t_ref": t_ref}, zero=True)
        if not bool((self.v_reset < self.v_threshold).all()):
            raise ValueError(f"v_reset must be below v_threshold, got {v_reset} and {v_threshold}")
        if reset == "none" and bool((self.t_ref > 0).any()):
            raise ValueError("t_ref needs a reset; set reset='hard' or 'soft', or t_ref=0")
        self.reset, self.backend = reset, backend
        # Steps without reset run in parallel already, and a function of Python is not compiled.
        self._fusible = reset != "none" and isinstance(surrogate, str)
        if backend == "fused" and not self._fusible:
            raise ValueError(
                "backend='fused' needs reset='hard' or 'soft' and a surrogate given by name; "
                "pass backend='auto'"
            )

    def _start(self, p: State) -> State:
        return {"voltage": p["v_rest"], "refractory": torch.zeros_like(p["v_rest"])}

    def _step(self, current: Tensor, state: State, dt: float, p: State) -> tuple[Tensor, State]:
        target = p["v_rest"] + p["resistance"] * current
        v = torch.lerp(state["voltage"], target, _gain(p["tau_mem"], dt))
        held = state["refractory"] > 0
        v = torch.where(held, p["v_reset"], v)
        above = v - p["v_threshold"]
        # A held neuron cannot fire, whatever its threshold: nothing flows back.
        fired, cut = self._fire(torch.where(held, above.detach(), above))
        if self.reset == "none":
            return fired, {"voltage": v, "refractory": state["refractory"]}
        left = (state["refractory"] - 1).clamp(min=0)
        left = torch.where(fired > 0, torch.round(p["t_ref"] / dt), left)
        return fired, {
            "voltage": after_reset(v, cut, p["v_threshold"], p["v_reset"], self.reset),
            "refractory": left.detach(),
        }

    def _run(
        self, current: Float[Tensor, "*batch time unit"], state: State, dt: float, p: State
    ) -> Run:
        n = current.shape[-2]
        start = state["voltage"]
        target = current
        if not self._plain():
            target = _timed(p["v_rest"]) + _timed(p["resistance"]) * current
        target = target.expand((*start.shape[:-1], n, start.shape[-1]))
        gain = _gain(p["tau_mem"], dt)
        if self.reset == "none":
            v = _leak(_timed(gain) * target, start, 1 - gain)
            fired, _ = self._fire(v - _timed(p["v_threshold"]))
            held = state["refractory"].unsqueeze(-2).expand_as(v)
            last = {"voltage": v[..., -1, :], "refractory": state["refractory"]}
            return Run(fired, {"voltage": v, "refractory": held}, last)
        pause = torch.round(p["t_ref"] / dt)
        rule = Rule(self.reset, self.surrogate, self.slope, self.detach_reset)
        way = Way(self.reset == "soft", bool((pause > 0).any()))
        fused = self._fusible and use_fused(
            self.backend, target.device, target.numel(), way, target.dtype
        )
        fired, v, refractory = applied(
            FusedFireAndReset if fused else FireAndReset, target, start, gain, p["v_threshold"],
            p["v_reset"], state["refractory"], pause.detach(), rule,
        )  # fmt: skip
        last = {"voltage": v[-1], "refractory": refractory[-1]}
        states = {"voltage": v.movedim(0, -2), "refractory": refractory.movedim(0, -2)}
        return Run(fired.movedim(0, -2), states, last)

    def _plain(self) -> bool:
        """Whether input and target are the same numbers, which saves two passes over them."""
        pairs = ((self.v_rest, 0.0), (self.resistance, 1.0))
        return all(x.ndim == 0 and not x.requires_grad and float(x) == value for x, value in pairs)


def _gain(tau: Tensor, dt: float) -> Tensor:
    """Part of the way to the target that a step covers, without cancellation at small steps."""
    return -torch.expm1(-dt / tau)


def _timed(number: Tensor) -> Tensor:
    """A number of units (..., n) beside sequences (..., time, n)."""
    return number if number.ndim < 2 else number.unsqueeze(-2)


def _leak(
    rise: Float[Tensor, "*batch time unit"],
    start: Float[Tensor, "*batch unit"],
    keep: Float[Tensor, "..."],
) -> Float[Tensor, "*batch time unit"]:
    """Leaky sums at all times together, by doubling the span that each sum covers."""
    n = rise.shape[-2]
    first = rise[..., :1, :] + (keep * start).unsqueeze(-2)
    total = torch.cat([first, rise[..., 1:, :]], dim=-2)
    factor = _timed(keep)
    for k in range((n - 1).bit_length()):
        span = 2**k
        longer = total[..., span:, :] + factor * total[..., :-span, :]
        total = torch.cat([total[..., :span, :], longer], dim=-2)
        factor = factor * factor
    return total
