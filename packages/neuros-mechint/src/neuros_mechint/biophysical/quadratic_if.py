"""Quadratic integrate-and-fire neurons, by the exact flow with spikes inside the step."""

import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._numbers import positive
from neuros_mechint.biophysical._neuron import (
    BiophysicalNeuronBase,
    Parameter,
    Run,
    State,
    fixed_or_reset,
)
from neuros_mechint.biophysical.surrogate import Surrogate, spike

__all__ = ["QuadraticIFNeuron"]

# Below this square of an angle the power series are exact to the last bit of float64.
_NEAR = 1e-3


class QuadraticIFNeuron(BiophysicalNeuronBase):
    r"""Quadratic integrate-and-fire neurons.

    $\tau\,\dot V = a (V - V_{rest})(V - V_{crit}) + R I$; a neuron that reaches `v_peak` fires and
    goes on from `v_reset`. For constant input the flow is a Möbius map and is used exactly: with
    $x = V - (V_{rest} + V_{crit})/2$, $J = R I - a (V_{crit} - V_{rest})^2 / 4$,
    $q = \sqrt{|J| / a}$ and $\omega = a q / \tau$,

    $x \leftarrow \frac{x + (J/a) S}{1 - x S}$, with $S = \tan(\omega\,dt)/q$ where $J > 0$,
    $\tanh(\omega\,dt)/q$ where $J < 0$, and $a\,dt/\tau$ between them.

    A spike falls at its exact time within the step and the rest of the step runs from `v_reset`,
    so the rate is right at any step. A step reports one spike at most: above a rate of 1/dt the
    potential waits at `v_peak` for the next step.

    The gradient follows the spike's time through the reset, as the flow itself does.

    Args:
        tau: Time constant, ms.
        a: Curvature of the potential's rate, 1/mV.
        v_rest: Stable potential without input, and that at the start, mV.
        v_crit: Unstable potential without input, mV.
        v_reset: Potential after a spike, mV.
        v_peak: Potential at which a spike is over, mV.
        resistance: Factor of the input current.
        surrogate: Kind of `SurrogateGradient`, or a function of $(V - V_{peak})(1 - x S)$, which
            stays finite where V does not (with the factor $\cos(\omega\,dt)$ where $J > 0$).
        slope: Steepness of the surrogate; None takes the kind's default.
        detach_reset: Whether the gradient treats the choice between reset and no reset as given.
            False differentiates through it by the surrogate as well.
        learnable: Names of the numbers above to train.

    Raises:
        TypeError: When a number is neither a float nor a floating tensor.
        ValueError: When `tau` or `a` is not positive, or `v_reset` is not below `v_peak`.

    Examples:
        With $J = 4$ a spike takes $\tau / \sqrt{aJ} = 25$ ms times the angle from reset to peak,
        $25 (\arctan 8.75 + \arctan 1.25) = 58.83$ ms:

        >>> neuron = QuadraticIFNeuron()
        >>> current = neuron.rheobase() + 4.0
        >>> spikes = neuron(current.expand(2000)).spikes.nonzero().flatten()
        >>> round(spikes.diff().double().mean().item(), 2)
        58.82

    References:
        Ermentrout, G. B., & Kopell, N. (1986). Parabolic bursting in an excitable system coupled
        with a slow oscillation. SIAM Journal on Applied Mathematics, 46, 233-253.
        doi:10.1137/0146017

        Latham, P. E., Richmond, B. J., Nelson, P. G., & Nirenberg, S. (2000). Intrinsic dynamics
        in neuronal networks. I. Theory. Journal of Neurophysiology, 83, 808-827.
        doi:10.1152/jn.2000.83.2.808
    """

    state_names: ClassVar[tuple[str, ...]] = ("voltage",)
    default_dt: ClassVar[float] = 1.0
    tau: Tensor
    a: Tensor
    v_rest: Tensor
    v_crit: Tensor
    v_reset: Tensor
    v_peak: Tensor
    resistance: Tensor

    def __init__(
        self,
        *,
        tau: Parameter = 10.0,
        a: Parameter = 0.04,
        v_rest: Parameter = -65.0,
        v_crit: Parameter = -50.0,
        v_reset: Parameter = -70.0,
        v_peak: Parameter = 30.0,
        resistance: Parameter = 1.0,
        surrogate: Surrogate = "fast_sigmoid",
        slope: float | None = 25.0,
        detach_reset: bool = True,
        learnable: Sequence[str] = (),
    ) -> None:
        super().__init__(
            {
                "tau": tau, "a": a, "v_rest": v_rest, "v_crit": v_crit, "v_reset": v_reset,
                "v_peak": v_peak, "resistance": resistance,
            },
            surrogate=surrogate, slope=slope, detach_reset=detach_reset, learnable=learnable,
        )  # fmt: skip
        positive({"tau": tau, "a": a})
        if not bool((self.v_reset < self.v_peak).all()):
            raise ValueError(f"v_reset must be below v_peak, got {v_reset} and {v_peak}")

    def rheobase(self) -> Tensor:
        r"""Smallest constant input that makes a neuron fire again and again.

        $a (V_{crit} - V_{rest})^2 / (4 R)$: above it no potential is at rest.

        Returns:
            The input, in the shape that the numbers have together.

        Examples:
            >>> QuadraticIFNeuron().rheobase().item()
            2.25
        """
        return self.a * (self.v_crit - self.v_rest).square() / (4 * self.resistance)

    def _start(self, p: State) -> State:
        return {"voltage": p["v_rest"]}

    def _constants(self, like: Tensor) -> State:
        p = self._numbers(like)
        middle = (p["v_rest"] + p["v_crit"]) / 2
        return {
            **p,
            "middle": middle,
            "low": p["v_reset"] - middle,
            "high": p["v_peak"] - middle,
            "depth": (p["v_crit"] - p["v_rest"]).square() / 4,
        }

    def _step(self, current: Tensor, state: State, dt: float, p: State) -> tuple[Tensor, State]:
        x = state["voltage"] - p["middle"]
        step = _prepared(current + torch.zeros_like(x), dt, p)
        passed, top, bottom = _moved(x, step, p)
        after = _restarted(x, step, passed, p)
        fired, x = self._settled(passed, (top, bottom), after, p)
        return fired, {"voltage": x + p["middle"]}

    def _run(
        self, current: Float[Tensor, "*batch time unit"], state: State, dt: float, p: State
    ) -> Run:
        """All steps, with what depends on the input alone found for all times together."""
        shape = state["voltage"].shape
        drive = current.expand((*shape[:-1], current.shape[-2], shape[-1])).movedim(-2, 0)
        steps = _prepared(drive, dt, p)
        v, spikes, potentials = state["voltage"], [], []
        for each in zip(*(x.expand(drive.shape).unbind(0) for x in steps), strict=True):
            x, step = v - p["middle"], _Step(*each)
            passed, top, bottom = _moved(x, step, p)
            # Where none fires there is nothing to restart, and most of the work is left out.
            some = bool(passed.any())
            after = _restarted(x, step, passed, p) if some else p["low"].expand(shape)
            fired, x = self._settled(passed, (top, bottom), after, p)
            v = x + p["middle"]
            spikes.append(fired)
            potentials.append(v)
        over_time = {"voltage": torch.stack(potentials, dim=-2)}
        return Run(torch.stack(spikes, dim=-2), over_time, {"voltage": v})

    def _settled(
        self, passed: Tensor, free: tuple[Tensor, Tensor], after: Tensor, p: State
    ) -> tuple[Tensor, Tensor]:
        """Spikes, and positions after any reset."""
        top, bottom = free
        soft = spike(top - p["high"] * bottom, self.surrogate, self.slope)
        fired = soft + (passed.to(top.dtype) - soft).detach()
        cut = fired.detach() if self.detach_reset else fired
        before = torch.where(passed, p["high"], top / torch.where(passed, 1.0, bottom))
        return fired, fixed_or_reset(cut, before, after)


class _Step(NamedTuple):
    """A step of x' = x^2 + k, which maps x to (x c + k s) / (c - x s).

    Time is counted in units of tau / a.
    """

    k: Tensor
    whole: Tensor
    c: Tensor
    s: Tensor
    several: Tensor


def _prepared(current: Tensor, dt: float, p: State) -> _Step:
    k = p["resistance"] * current / p["a"] - p["depth"]
    whole = (dt * p["a"] / p["tau"]).expand(k.shape)
    return _Step(k, whole, *_map(k, whole))


def _map(k: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients c and s of the map, and whether it passes infinity from everywhere."""
    z = k * time.square()
    near = z.abs() < _NEAR
    angle = torch.where(near, 1.0, z.abs()).sqrt()
    cosine = 1 - z * (1 / 2 - z * (1 / 24 - z * (1 / 720 - z / 40320)))
    sine = 1 - z * (1 / 6 - z * (1 / 120 - z / 5040))
    # Below rheobase both sides are divided by cosh, which would overflow.
    far_cosine = torch.where(z > 0, torch.cos(angle), 1.0)
    far_sine = torch.where(z > 0, torch.sin(angle), torch.tanh(angle)) / angle
    c = torch.where(near, cosine, far_cosine)
    return c, time * torch.where(near, sine, far_sine), z >= math.pi**2


def _moved(x: Tensor, step: _Step, p: State) -> tuple[Tensor, Tensor, Tensor]:
    """Whether the peak is passed in the step, and the position after it as a fraction."""
    top, bottom = x * step.c + step.k * step.s, step.c - x * step.s
    over = (top > p["high"] * bottom) | (bottom <= 0) | (x >= p["high"])
    return over | step.several, top, bottom


def _restarted(x: Tensor, step: _Step, passed: Tensor, p: State) -> Tensor:
    """Where the step leads from the reset after a spike, or the peak if that comes first."""
    until = torch.minimum(_passage(x, p["high"], step.k, step.whole), step.whole)
    rest = torch.where(passed, step.whole - until, 0.0)
    again, top, bottom = _moved(p["low"], _Step(step.k, rest, *_map(step.k, rest)), p)
    return torch.where(again, p["high"], top / torch.where(again, 1.0, bottom))


def _passage(x: Tensor, high: Tensor, k: Tensor, within: Tensor) -> Tensor:
    """Time that x' = x^2 + k needs to the peak; infinity where that is sure to be too long."""
    gap = (high - x).clamp(min=0)
    slope = k + high * x
    # Beyond 33 times the step no branch ends in time, and quotients could overflow.
    close = gap < 33 * within * slope
    ratio = gap / torch.where(close, slope, 1.0)
    z = k * ratio.square()
    near = close & (z.abs() < _NEAR)
    # Away from the series a passage takes an angle of 0.0316 at least.
    fast = ~near & (k.abs() * within.square() > 0.9 * _NEAR)
    turns, climbs = fast & (k > 0), fast & (k < 0) & close
    q = torch.where(fast, k.abs(), 1.0).sqrt()
    part = q * ratio
    climbs = climbs & (part < 1)
    time = torch.full_like(k, math.inf)
    time = torch.where(climbs, torch.atanh(torch.where(climbs, part, 0.0)) / q, time)
    angle = torch.atan2(torch.where(turns, q * gap, 1.0), torch.where(turns, slope, 1.0))
    time = torch.where(turns, angle / q, time)
    time = torch.where(near, ratio * _arc(torch.where(near, z, 0.0)), time)
    return torch.where(x >= high, 0.0, time)


def _arc(z: Tensor) -> Tensor:
    """The ratio atan(sqrt(z)) / sqrt(z) near 0."""
    return 1 - z * (1 / 3 - z * (1 / 5 - z * (1 / 7 - z * (1 / 9 - z / 11))))
