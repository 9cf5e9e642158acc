"""Adaptive exponential integrate-and-fire neurons, with the blow-up of a spike integrated."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import one_of
from neuros_mechint._numbers import positive
from neuros_mechint.biophysical._adex_regimes import REGIMES, Regime
from neuros_mechint.biophysical._neuron import (
    BiophysicalNeuronBase,
    Parameter,
    Run,
    State,
    fixed_or_reset,
)
from neuros_mechint.biophysical.surrogate import Surrogate, spike

__all__ = ["ADEX_REGIMES", "AdExNeuron", "AdExRegime"]

ADEX_REGIMES: tuple[str, ...] = tuple(REGIMES)
_Pair: TypeAlias = tuple[Tensor, Tensor]


class AdExNeuron(BiophysicalNeuronBase):
    r"""Adaptive exponential integrate-and-fire neurons.

    $C \dot V = -g_L (V - E_L) + g_L \Delta_T e^{(V - V_T)/\Delta_T} - w + I$ and
    $\tau_w \dot w = a (V - E_L) - w$. Above `v_peak` a neuron fires, $V \leftarrow V_{reset}$ and
    $w \leftarrow w + b$. The exponent never exceeds its value at `v_peak`.

    The equations are integrated in $s = \Delta_T \ln(1 + e^{(V_T - V)/\Delta_T})$, which is
    $V_T - V$ far below the threshold and falls steadily to 0 while V runs away:
    $C \dot s = (1 - e)(g_L (V - E_L) + w - I) - g_L \Delta_T e$ with $e = e^{-s/\Delta_T}$. So no
    step, however long, overflows. A spike falls at the time within the step at which s passes its
    value at `v_peak`; the rest of the step runs from the reset. A step reports one spike at most.

    With `Delta_T` = 0 the neuron is a leaky one with adaptation that fires at `V_T`.

    The gradient follows the spike's time through the reset.

    Args:
        C: Capacitance, pF.
        g_L: Leak conductance, nS.
        E_L: Leak reversal potential, and the potential at the start, mV.
        V_T: Threshold of the exponential, mV.
        Delta_T: Width of the exponential, mV.
        tau_w: Time constant of the adaptation, ms.
        a: Coupling of the adaptation to the potential, nS.
        b: Rise of the adaptation at a spike, pA.
        v_reset: Potential after a spike, mV.
        v_peak: Potential at which a spike is over, mV.
        t_ref: Time after a spike in which the potential stays at `v_reset`, ms.
        integrator: `rk4`, of fourth order, or `euler`, of first.
        surrogate: Kind of `SurrogateGradient`, or a function of $s_{peak} - s$, mV.
        slope: Steepness of the surrogate; None takes the kind's default.
        detach_reset: Whether the gradient treats the choice between reset and no reset as given.
            False differentiates through it by the surrogate as well.
        learnable: Names of the numbers above to train.

    Raises:
        TypeError: When a number is neither a float nor a floating tensor.
        ValueError: When `C`, `g_L` or `tau_w` is not positive, `Delta_T` or `t_ref` is negative,
            `v_reset` or `V_T` is not below `v_peak`, or the integrator is unknown.

    Examples:
        >>> neuron, current, dt, state = AdExNeuron.regime("adapting")
        >>> spikes = neuron(current[:1400], dt, state=state).spikes[:, 0]
        >>> [round(each * dt, 1) for each in spikes.nonzero().flatten().diff().tolist()]
        [11.2, 14.4, 19.7]

    References:
        Brette, R., & Gerstner, W. (2005). Adaptive exponential integrate-and-fire model as an
        effective description of neuronal activity. Journal of Neurophysiology, 94, 3637-3642.
        doi:10.1152/jn.00686.2005

        Naud, R., Marcille, N., Clopath, C., & Gerstner, W. (2008). Firing patterns in the adaptive
        exponential integrate-and-fire model. Biological Cybernetics, 99, 335-347.
        doi:10.1007/s00422-008-0264-7

        Touboul, J., & Brette, R. (2008). Dynamics and bifurcations of the adaptive exponential
        integrate-and-fire model. Biological Cybernetics, 99, 319-334.
        doi:10.1007/s00422-008-0267-4
    """

    state_names: ClassVar[tuple[str, ...]] = ("voltage", "w", "refractory")
    default_dt: ClassVar[float] = 0.05

    def __init__(
        self,
        *,
        C: Parameter = 281.0,
        g_L: Parameter = 30.0,
        E_L: Parameter = -70.6,
        V_T: Parameter = -50.4,
        Delta_T: Parameter = 2.0,
        tau_w: Parameter = 144.0,
        a: Parameter = 4.0,
        b: Parameter = 80.5,
        v_reset: Parameter = -70.6,
        v_peak: Parameter = 20.0,
        t_ref: Parameter = 0.0,
        integrator: str = "rk4",
        surrogate: Surrogate = "fast_sigmoid",
        slope: float | None = 25.0,
        detach_reset: bool = True,
        learnable: Sequence[str] = (),
    ) -> None:
        one_of("integrator", integrator, ("rk4", "euler"))
        super().__init__(
            {
                "C": C, "g_L": g_L, "E_L": E_L, "V_T": V_T, "Delta_T": Delta_T, "tau_w": tau_w,
                "a": a, "b": b, "v_reset": v_reset, "v_peak": v_peak, "t_ref": t_ref,
            },
            surrogate=surrogate, slope=slope, detach_reset=detach_reset, learnable=learnable,
        )  # fmt: skip
        positive({"C": C, "g_L": g_L, "tau_w": tau_w})
        positive({"Delta_T": Delta_T, "t_ref": t_ref}, zero=True)
        levels: State = {name: getattr(self, name).detach() for name in self.number_names}
        for name in ("v_reset", "V_T"):
            if not bool((levels[name] < levels["v_peak"]).all()):
                raise ValueError(
                    f"{name} must be below v_peak, got {float(levels[name].max()):g} "
                    f"and {float(levels['v_peak'].min()):g}"
                )
        self.integrator = integrator

    @staticmethod
    def regime(name: str, *, dtype: torch.dtype = torch.float64) -> "AdExRegime":
        """A published firing pattern, as neuron, input, step and first state.

        Args:
            name: One of `ADEX_REGIMES`.
            dtype: Dtype of input and state.

        Returns:
            What `neuron.simulate(current, dt, state=state)` shows the pattern from, 500 ms long.

        Raises:
            ValueError: When the name is not on the list.

        Examples:
            >>> neuron, current, dt, state = AdExNeuron.regime("transient")
            >>> neuron(current[::4], 4 * dt, state=state).spikes.sum().item()
            1.0
        """
        one_of("name", name, ADEX_REGIMES)
        found: Regime = REGIMES[name]
        neuron = AdExNeuron(
            C=found.capacitance, g_L=found.leak, E_L=found.rest, a=found.coupling,
            tau_w=found.tau_w, b=found.rise, v_reset=found.v_reset,
            V_T=-50.0, Delta_T=2.0, v_peak=0.0,
        )  # fmt: skip
        dt = AdExNeuron.default_dt
        return AdExRegime(
            neuron,
            torch.full((round(500 / dt), 1), found.current, dtype=dtype),
            dt,
            neuron.init_state((1,), dtype=dtype),
        )

    def rheobase(self) -> Tensor:
        r"""Largest constant input at which the neuron can rest, reached slowly.

        With $\tau_m = C / g_L$ and $x = \min(a / g_L, \tau_m / \tau_w)$ it is
        $(g_L + a)(V_T - E_L - \Delta_T + \Delta_T \ln(1 + x)) + \Delta_T g_L (a / g_L - x)$: rest
        vanishes with the threshold where the first is smaller (a fold), and loses its stability
        where the second is (a Hopf bifurcation).

        Returns:
            The input in pA, in the shape that the numbers have together.

        Raises:
            ValueError: When a is not above -g_L, where no rest is stable at any input.

        Examples:
            >>> round(AdExNeuron().rheobase().item(), 2)
            627.18

        References:
            Touboul, J., & Brette, R. (2008). Dynamics and bifurcations of the adaptive exponential
            integrate-and-fire model. Biological Cybernetics, 99, 319-334.
            doi:10.1007/s00422-008-0267-4
        """
        p: State = {name: getattr(self, name) for name in self.number_names}
        ratio = p["a"] / p["g_L"]
        if not bool((ratio > -1).all()):
            raise ValueError(
                "rheobase needs a above -g_L, where a rest can be stable; "
                f"got a / g_L = {float(ratio.detach().min()):g}"
            )
        x = torch.minimum(ratio, p["C"] / p["g_L"] / p["tau_w"])
        height = p["V_T"] - p["E_L"] - p["Delta_T"] + p["Delta_T"] * torch.log1p(x)
        return (p["g_L"] + p["a"]) * height + p["Delta_T"] * p["g_L"] * (ratio - x)

    def _start(self, p: State) -> State:
        zero = torch.zeros_like(p["E_L"])
        return {"voltage": p["E_L"], "w": zero, "refractory": zero}

    def _constants(self, like: Tensor) -> State:
        p = self._numbers(like)
        sharp = p["Delta_T"] == 0
        top = torch.where(sharp, p["V_T"], p["v_peak"])
        p = {**p, "sharp": sharp, "top": top, "width": torch.where(sharp, 1.0, p["Delta_T"])}
        # Past e^60 the rest of a spike takes less than 1e-25 ms, and single precision ends at e^88.
        summit = torch.minimum(p["v_peak"], p["V_T"] + 60 * p["width"])
        level = torch.where(sharp, 0.0, _inward(summit, p))
        return {
            **p,
            "level": level,
            "s_reset": _inward(p["v_reset"], p),
            # Without an exponential s is no bounded coordinate, and e is 0 throughout.
            "lowest": torch.where(sharp, -torch.inf, level),
            "floor": torch.where(sharp, 1.0, level),
            "steepness": torch.where(sharp, 1e30, 1 / p["width"]),
            "leak": p["g_L"] / p["C"],
            "run": p["g_L"] * p["Delta_T"] / p["C"],
            "coupling": p["a"] / p["tau_w"],
        }

    def _step(self, current: Tensor, state: State, dt: float, p: State) -> tuple[Tensor, State]:
        way = self._moved(current, state, dt, p)
        return self._settled(way, _restarted(way, p), p)

    def _run(
        self, current: Float[Tensor, "*batch time unit"], state: State, dt: float, p: State
    ) -> Run:
        """All steps, without the work of a restart where no neuron fires."""
        spikes: list[Tensor] = []
        states: list[State] = []
        for row in current.unbind(-2):
            way = self._moved(row, state, dt, p)
            back = _restarted(way, p) if bool(way.passed.any()) else _waiting(way, p)
            fired, state = self._settled(way, back, p)
            spikes.append(fired)
            states.append(state)
        over_time = {
            name: torch.stack([each[name] for each in states], dim=-2) for name in self.state_names
        }
        return Run(torch.stack(spikes, dim=-2), over_time, state)

    def _moved(self, current: Tensor, state: State, dt: float, p: State) -> "_Way":
        """The step without a reset, after what is left of the refractory time."""
        v, w, left = (state[name] for name in self.state_names)
        wait = left.clamp(max=dt)
        begin = (_inward(torch.where(left > 0, p["v_reset"], v), p), _relaxed(w, wait, p))
        span, slope = dt - wait, _driven(current, p)
        first = slope(begin)
        euler = self.integrator == "euler"
        end = _ahead(begin, first, span) if euler else _classical(slope, begin, first, span)
        return _Way(begin, end, slope, first, span, end[0] < p["level"], left - wait)

    def _settled(self, way: "_Way", back: "_Back", p: State) -> tuple[Tensor, State]:
        """Spikes, and the states after any reset."""
        s, w = way.end
        soft = spike(p["level"] - s, self.surrogate, self.slope)
        fired = soft + (way.passed.to(soft.dtype) - soft).detach()
        cut = fired.detach() if self.detach_reset else fired
        before = torch.where(way.passed, p["top"], _outward(s, p))
        return fired, {
            "voltage": fixed_or_reset(cut, before, back.voltage),
            "w": fixed_or_reset(cut, w, back.w),
            "refractory": back.refractory,
        }


class _Drive(NamedTuple):
    """Rates of (s, w) under one input."""

    drive: Tensor
    p: State

    def __call__(self, y: _Pair) -> _Pair:
        """The rates at a place."""
        (s, w), p = y, self.p
        loss = torch.expm1(-torch.maximum(s, p["floor"]) * p["steepness"])  # e - 1
        v = p["V_T"] - torch.maximum(s, p["lowest"]) - p["Delta_T"] * torch.log(-loss)
        ds = loss * (self.drive - p["leak"] * v - w / p["C"]) - p["run"]
        return ds, p["coupling"] * (v - p["E_L"]) - w / p["tau_w"]


class _Way(NamedTuple):
    """A step without a reset: (s, w) at both ends, rates, length, and what it meets."""

    begin: _Pair
    end: _Pair
    slope: _Drive
    first: _Pair
    span: Tensor
    passed: Tensor
    left: Tensor


class _Back(NamedTuple):
    """States at the end of a step with a reset in it."""

    voltage: Tensor
    w: Tensor
    refractory: Tensor


def _inward(v: Tensor, p: State) -> Tensor:
    """Coordinate s of a potential."""
    below = p["V_T"] - v
    soft = p["width"] * torch.nn.functional.softplus(below / p["width"], threshold=40)
    return torch.where(p["sharp"], below, soft)


def _outward(s: Tensor, p: State) -> Tensor:
    """Potential of a coordinate, at most that of a spike."""
    loss = torch.expm1(-torch.maximum(s, p["floor"]) * p["steepness"])
    v = p["V_T"] - torch.maximum(s, p["lowest"]) - p["Delta_T"] * torch.log(-loss)
    # There and back rounds, and the peak is where a spike is decided.
    return torch.minimum(v, p["top"])


def _driven(current: Tensor, p: State) -> _Drive:
    return _Drive((current + p["g_L"] * (p["E_L"] - p["Delta_T"])) / p["C"], p)


def _ahead(y: _Pair, rate: _Pair, time: Tensor) -> _Pair:
    return torch.addcmul(y[0], rate[0], time), torch.addcmul(y[1], rate[1], time)


def _classical(slope: _Drive, y: _Pair, first: _Pair, span: Tensor) -> _Pair:
    """The Runge-Kutta method of order 4 over spans that differ between neurons."""
    half = span / 2
    second = slope(_ahead(y, first, half))
    third = slope(_ahead(y, second, half))
    fourth = slope(_ahead(y, third, span))
    mean = [
        (a + d + 2 * (b + c)) / 6 for a, b, c, d in zip(first, second, third, fourth, strict=True)
    ]
    return _ahead(y, (mean[0], mean[1]), span)


def _midpoint(slope: _Drive, y: _Pair, span: Tensor) -> _Pair:
    return _ahead(y, slope(_ahead(y, slope(y), span / 2)), span)


def _relaxed(w: Tensor, time: Tensor, p: State) -> Tensor:
    """Adaptation after a time at the reset potential, unchanged to the bit after none."""
    target = p["a"] * (p["v_reset"] - p["E_L"])
    return w - (target - w) * torch.expm1(-time / p["tau_w"])


def _waiting(way: _Way, p: State) -> _Back:
    """What a reset at the very end of the step would give."""
    s, w = way.end
    return _Back(p["v_reset"].expand_as(s), w + p["b"], way.left)


def _restarted(way: _Way, p: State) -> _Back:
    """The rest of the step after a spike in it."""
    part, at_peak = _crossing(way, p["level"])
    part = torch.where(way.passed, part, 1.0)
    rest = way.span * (1 - part)
    pause = torch.minimum(p["t_ref"], rest)
    w = _relaxed(torch.where(way.passed, at_peak, way.end[1]) + p["b"], pause, p)
    s, w = _midpoint(way.slope, (p["s_reset"].expand_as(w), w), rest - pause)
    # A second spike within the step waits at the peak for the next.
    v = torch.where(rest > pause, _outward(s, p), p["v_reset"])
    return _Back(v, w, torch.where(way.passed, p["t_ref"] - pause, way.left))


def _crossing(way: _Way, level: Tensor) -> _Pair:
    """Part of the step at which s passes a level, and w there, on the cubic through both ends."""
    (s0, w0), (s1, w1) = way.begin, way.end
    first, last = ([each * way.span for each in rates] for rates in (way.first, way.slope(way.end)))
    fall = torch.where(way.passed & (s0 > s1), s0 - s1, 1.0)
    part = ((s0 - level) / fall).clamp(0, 1)
    for _ in range(2):
        value = _cubic(part, (s0, s1), (first[0], last[0])) - level
        rate = _cubic_rate(part, (s0, s1), (first[0], last[0]))
        # A step too long for its cubic to fall all the way is taken for a straight line.
        steep = way.passed & (rate < -0.1 * fall)
        part = (part - value / torch.where(steep, rate, -fall)).clamp(0, 1)
    return part, _cubic(part, (w0, w1), (first[1], last[1]))


def _cubic(t: Tensor, ends: _Pair, rates: _Pair) -> Tensor:
    """Hermite's cubic on [0, 1]."""
    rise = ends[1] - ends[0]
    bend = rates[0] - rise + t * (2 * rise - rates[0] - rates[1])
    return ends[0] + t * (rise + (1 - t) * bend)


def _cubic_rate(t: Tensor, ends: _Pair, rates: _Pair) -> Tensor:
    rise = ends[1] - ends[0]
    twist = 2 * rise - rates[0] - rates[1]
    return rise + (1 - 2 * t) * (rates[0] - rise + t * twist) + t * (1 - t) * twist


class AdExRegime(NamedTuple):
    """A firing pattern ready to run.

    Attributes:
        neuron: The neuron.
        current: Input (time, 1), pA.
        dt: Step, ms.
        state: State at the start.
    """

    neuron: AdExNeuron
    current: Tensor
    dt: float
    state: State
