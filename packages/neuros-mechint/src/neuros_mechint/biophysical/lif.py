"""Leaky integrate-and-fire neurons, by the exact flow between spikes."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuros_mechint._arrays import one_of
from neuros_mechint._autograd import applied
from neuros_mechint.biophysical._arguments import positive
from neuros_mechint.biophysical._neuron import (
    BiophysicalNeuronBase,
    Parameter,
    Run,
    State,
)
from neuros_mechint.biophysical.surrogate import Surrogate, surrogate_slope

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

    Raises:
        TypeError: When a number is neither a float nor a floating tensor.
        ValueError: When `v_reset` is not below `v_threshold`, a time is negative, the reset is
            unknown, or `t_ref` is given without a reset.

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
    ) -> None:
        one_of("reset", reset, ("hard", "soft", "none"))
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
        self.reset = reset

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
            "voltage": _after(v, cut, p["v_threshold"], p["v_reset"], self.reset),
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
        rule = _Rule(self.reset, self.surrogate, self.slope, self.detach_reset)
        fired, v, refractory = applied(
            _FireAndReset, target, start, gain, p["v_threshold"], p["v_reset"],
            state["refractory"], pause.detach(), rule,
        )  # fmt: skip
        last = {"voltage": v[-1], "refractory": refractory[-1]}
        states = {"voltage": v.movedim(0, -2), "refractory": refractory.movedim(0, -2)}
        return Run(fired.movedim(0, -2), states, last)

    def _plain(self) -> bool:
        """Whether input and target are the same numbers, which saves two passes over them."""
        pairs = ((self.v_rest, 0.0), (self.resistance, 1.0))
        return all(x.ndim == 0 and not x.requires_grad and float(x) == value for x, value in pairs)


class _Rule(NamedTuple):
    reset: str
    surrogate: Surrogate
    slope: float | None
    detach_reset: bool


def _gain(tau: Tensor, dt: float) -> Tensor:
    """Part of the way to the target that a step covers, without cancellation at small steps."""
    return -torch.expm1(-dt / tau)


def _after(v: Tensor, cut: Tensor, threshold: Tensor, floor: Tensor, reset: str) -> Tensor:
    """Potential after the reset where `cut` is 1."""
    if reset == "soft":
        return v - (threshold - floor) * cut
    return v * (1 - cut) + floor * cut


class _FireAndReset(torch.autograd.Function):
    r"""All steps, time first: three kernels a step forward, one backward.

    With $u_t$ the potential before the reset and $v_t$ after it,
    $u_t = v_{t-1} + w(x_t - v_{t-1})$.
    The adjoint runs $\bar u_t = S_t + K_t(\bar v^{out}_t + (1 - w)\bar u_{t+1})$, where $S$ is
    the gradient through spikes and $K = \partial v / \partial u$, both found for all times
    together.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        target, start, gain, threshold, floor, left, pause, ctx.rule = args
        drive = target.movedim(-2, 0)
        before = torch.empty_like(drive, memory_format=torch.contiguous_format)
        waits = bool((left > 0).any()) or bool((pause > 0).any())
        levels = _Levels(gain, threshold, floor, ctx.rule.reset)
        if waits:
            refractory = _walk_held(drive, start, levels, before, (left, pause))
        else:
            refractory = _walk(drive, start, levels, before)
        fired = (before > threshold).to(before.dtype)
        v = _after(before, fired, threshold, floor, ctx.rule.reset)
        held = torch.cat([left[None], refractory[:-1]]) > 0 if waits else None
        ctx.save_for_backward(drive, start, gain, threshold, floor, before, v, held)
        ctx.mark_non_differentiable(refractory)
        ctx.set_materialize_grads(False)
        return fired, v, refractory

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        drive, start, gain, threshold, floor, before, v, held = ctx.saved_tensors
        needs = ctx.needs_input_grad
        slope, keep, jump = _local(before, threshold, floor, held, ctx.rule)
        adjoint = _adjoint(slope, keep, 1 - gain, grads[0], grads[1])
        made: list[Tensor | None] = [None] * 8
        if needs[0]:
            made[0] = (gain * adjoint).movedim(0, -2)
        if needs[1]:
            made[1] = (1 - gain) * adjoint[0]
        if needs[2]:
            made[2] = _reduced(adjoint * (drive - torch.cat([start[None], v[:-1]])), gain.shape)
        if not (needs[3] or needs[4]):
            return tuple(made)
        after = torch.zeros_like(v) if grads[1] is None else grads[1].clone()
        after[:-1] += (1 - gain) * adjoint[1:]
        fired = (before > threshold).to(before.dtype)
        spikes = torch.zeros_like(v) if grads[0] is None else grads[0]
        through = slope * (spikes if ctx.rule.detach_reset else spikes + after * jump)
        # A held potential is v_reset itself, whatever came before it.
        stays = fired if held is None else torch.where(held, 1.0, fired)
        lowered = fired * after if ctx.rule.reset == "soft" else torch.zeros_like(after)
        made[3] = _reduced(-through - lowered, threshold.shape)
        made[4] = _reduced(stays * after, floor.shape)
        return tuple(made)


def _local(
    before: Tensor, threshold: Tensor, floor: Tensor, held: Tensor | None, rule: _Rule
) -> tuple[Tensor, Tensor, Tensor]:
    """Slope of the spikes, of the potential after the reset, and the height of the jump."""
    above = before - threshold
    slope = surrogate_slope(above, rule.surrogate, rule.slope)
    if rule.reset == "hard":
        keep, jump = (above <= 0).to(before.dtype), floor - before
    else:
        keep, jump = torch.ones_like(before), (floor - threshold).expand_as(before)
    if not rule.detach_reset:
        keep = torch.addcmul(keep, slope, jump)
    if held is not None:
        keep, slope = keep.masked_fill(held, 0), slope.masked_fill(held, 0)
    return slope, keep, jump


def _adjoint(
    slope: Tensor, keep: Tensor, decay: Tensor, spikes: Tensor | None, voltage: Tensor | None
) -> Tensor:
    """Gradient to the potential before the reset, from the last step to the first."""
    adjoint = torch.zeros_like(slope) if spikes is None else slope * spikes
    if voltage is not None:
        adjoint.addcmul_(keep, voltage)
    rows, factors = adjoint.unbind(0), (keep * decay).unbind(0)
    for t in range(len(rows) - 2, -1, -1):
        rows[t].addcmul_(factors[t], rows[t + 1])
    return adjoint


class _Levels(NamedTuple):
    gain: Tensor
    threshold: Tensor
    floor: Tensor
    reset: str


def _walk(drive: Tensor, start: Tensor, levels: _Levels, before: Tensor) -> Tensor:
    """Fill the potentials before the reset, without refractory time."""
    gain, threshold, floor, reset = levels
    v = start.clone(memory_format=torch.contiguous_format)
    above = torch.empty_like(v, dtype=torch.bool)
    drop = threshold - floor
    for x, u in zip(drive.unbind(0), before.unbind(0), strict=True):
        torch.lerp(v, x, gain, out=u)
        torch.gt(u, threshold, out=above)
        if reset == "soft":
            torch.sub(u, drop * above, out=v)
        else:
            torch.where(above, floor, u, out=v)
    return before.new_zeros(()).expand(before.shape)


def _walk_held(
    drive: Tensor, start: Tensor, levels: _Levels, before: Tensor, waiting: tuple[Tensor, Tensor]
) -> Tensor:
    """Fill the potentials before the reset, and return the steps still to wait."""
    gain, threshold, floor, reset = levels
    left, pause = waiting
    v, counts = start, torch.empty_like(before)
    for x, u, count in zip(drive.unbind(0), before.unbind(0), counts.unbind(0), strict=True):
        u.copy_(torch.where(left > 0, floor, torch.lerp(v, x, gain)))
        above = u > threshold
        v = _after(u, above.to(u.dtype), threshold, floor, reset)
        left = torch.where(above, pause, (left - 1).clamp(min=0))
        count.copy_(left)
    return counts


def _reduced(x: Tensor, shape: torch.Size) -> Tensor:
    """Sum over what broadcasting had repeated."""
    return x.sum_to_size(shape) if shape else x.sum()


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
