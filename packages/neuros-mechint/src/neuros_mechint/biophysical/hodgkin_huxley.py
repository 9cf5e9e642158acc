"""Hodgkin and Huxley's neurons, integrated to second order at the cost of first."""

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from neuros_mechint._arrays import one_of
from neuros_mechint._numbers import positive
from neuros_mechint.biophysical._neuron import (
    BiophysicalNeuronBase,
    Parameter,
    State,
    rk4,
)
from neuros_mechint.biophysical.surrogate import Surrogate, spike

__all__ = ["HHRates", "HHSteadyState", "HodgkinHuxleyNeuron"]

_INTEGRATORS = ("strang", "exponential_euler", "rk4")


class HHRates(NamedTuple):
    """Rates of opening (alpha) and closing (beta) of the gates, 1/ms."""

    alpha_m: Tensor
    beta_m: Tensor
    alpha_h: Tensor
    beta_h: Tensor
    alpha_n: Tensor
    beta_n: Tensor


class HHSteadyState(NamedTuple):
    """Gates at rest at a potential, each between 0 and 1."""

    m: Tensor
    h: Tensor
    n: Tensor


class HodgkinHuxleyNeuron(BiophysicalNeuronBase):
    r"""Hodgkin and Huxley's neurons of the squid axon.

    $C \dot V = I - g_{Na} m^3 h (V - E_{Na}) - g_K n^4 (V - E_K) - g_L (V - E_L)$, and for each
    gate $\dot x = \varphi(\alpha_x (1 - x) - \beta_x x)$ with $\varphi = q_{10}^{(T - 6.3)/10}$.

    Given the gates the potential has an exact solution, and so have the gates given the potential.
    `strang` takes half a step of the potential, one of the gates, and half a step of the potential:
    stable at any step and of second order. `exponential_euler` takes both from the same old values,
    of first order, as most simulators do. `rk4` is the classical method, of fourth order, stable
    at small steps only.

    A spike is an upward crossing of `spike_threshold`; nothing is reset.

    Args:
        g_Na: Sodium conductance, mS/cm².
        g_K: Potassium conductance, mS/cm².
        g_L: Leak conductance, mS/cm².
        E_Na: Sodium reversal potential, mV.
        E_K: Potassium reversal potential, mV.
        E_L: Leak reversal potential, mV.
        C_m: Capacitance, µF/cm².
        temperature: Temperature, °C.
        q10: Factor of all rates for 10 °C.
        spike_threshold: Potential whose upward crossing is a spike, mV.
        integrator: `strang`, `exponential_euler` or `rk4`.
        surrogate: Kind of `SurrogateGradient`, or a function of V - spike_threshold.
        slope: Steepness of the surrogate; None takes the kind's default.
        learnable: Names of the numbers above to train.

    Raises:
        TypeError: When a number is neither a float nor a floating tensor.
        ValueError: When `g_Na` or `g_K` is negative, `g_L`, `C_m` or `q10` is not positive, or the
            integrator is unknown.

    Examples:
        >>> trace = HodgkinHuxleyNeuron()(torch.full((2000,), 10.0, dtype=torch.float64))
        >>> [round(k * 0.025, 1) for k in trace.spikes.nonzero().flatten().tolist()]
        [1.9, 16.8, 31.5, 46.1]

    References:
        Hodgkin, A. L., & Huxley, A. F. (1952). A quantitative description of membrane current and
        its application to conduction and excitation in nerve. Journal of Physiology, 117, 500-544.
        doi:10.1113/jphysiol.1952.sp004764

        Strang, G. (1968). On the construction and comparison of difference schemes. SIAM Journal
        on Numerical Analysis, 5, 506-517. doi:10.1137/0705041
    """

    state_names: ClassVar[tuple[str, ...]] = ("voltage", "m", "h", "n")
    default_dt: ClassVar[float] = 0.025

    def __init__(
        self,
        g_Na: Parameter = 120.0,
        g_K: Parameter = 36.0,
        g_L: Parameter = 0.3,
        *,
        E_Na: Parameter = 50.0,
        E_K: Parameter = -77.0,
        E_L: Parameter = -54.387,
        C_m: Parameter = 1.0,
        temperature: Parameter = 6.3,
        q10: Parameter = 3.0,
        spike_threshold: Parameter = 0.0,
        integrator: str = "strang",
        surrogate: Surrogate = "fast_sigmoid",
        slope: float | None = 25.0,
        learnable: Sequence[str] = (),
    ) -> None:
        one_of("integrator", integrator, _INTEGRATORS)
        super().__init__(
            {
                "g_Na": g_Na, "g_K": g_K, "g_L": g_L, "E_Na": E_Na, "E_K": E_K, "E_L": E_L,
                "C_m": C_m, "temperature": temperature, "q10": q10,
                "spike_threshold": spike_threshold,
            },
            surrogate=surrogate, slope=slope, detach_reset=True, learnable=learnable,
        )  # fmt: skip
        positive({"g_Na": g_Na, "g_K": g_K}, zero=True)
        # With a leak the total conductance has a reciprocal in every state.
        positive({"g_L": g_L, "C_m": C_m, "q10": q10})
        self.integrator = integrator

    def rates(self, V: Tensor) -> HHRates:
        """Rates of the gates at 6.3 °C.

        Args:
            V: Potential of any shape, mV.

        Returns:
            The six rates in the shape of V, 1/ms, finite with their gradients also where the
            formulas are 0/0 (V = -40 and V = -55).

        Examples:
            >>> rates = HodgkinHuxleyNeuron().rates(torch.tensor([-40.0, -55.0]))
            >>> round(rates.alpha_m[0].item(), 6), round(rates.alpha_n[1].item(), 6)
            (1.0, 0.1)
        """
        return HHRates(
            alpha_m=_ratio(-(V + 40) / 10),
            beta_m=4 * torch.exp(-(V + 65) / 18),
            alpha_h=0.07 * torch.exp(-(V + 65) / 20),
            beta_h=torch.sigmoid((V + 35) / 10),
            alpha_n=0.1 * _ratio(-(V + 55) / 10),
            beta_n=0.125 * torch.exp(-(V + 65) / 80),
        )

    def steady_state(self, V: Tensor) -> HHSteadyState:
        """Gates after a long time at a potential.

        Args:
            V: Potential of any shape, mV.

        Returns:
            The gates m, h and n in the shape of V.

        Examples:
            >>> gates = HodgkinHuxleyNeuron().steady_state(torch.tensor(-65.0))
            >>> [round(x.item(), 4) for x in gates]
            [0.0529, 0.5961, 0.3177]
        """
        r = self.rates(V)
        return HHSteadyState(
            r.alpha_m / (r.alpha_m + r.beta_m),
            r.alpha_h / (r.alpha_h + r.beta_h),
            r.alpha_n / (r.alpha_n + r.beta_n),
        )

    def _start(self, p: State) -> State:
        v = torch.full_like(p["E_L"], -65.0)
        return {"voltage": v, **self.steady_state(v)._asdict()}

    def _constants(self, like: Tensor) -> State:
        p = self._numbers(like)
        return {**p, "phi": p["q10"] ** ((p["temperature"] - 6.3) / 10)}

    def _step(self, current: Tensor, state: State, dt: float, p: State) -> tuple[Tensor, State]:
        v, m, h, n = (state[name] for name in self.state_names)
        advance: Callable[..., tuple[Tensor, ...]] = {
            "strang": self._strang, "exponential_euler": self._exponential, "rk4": self._classical,
        }[self.integrator]  # fmt: skip
        new, m, h, n = advance((v, m, h, n), current, dt, p)
        return self._crossed(v, new, p["spike_threshold"]), {"voltage": new, "m": m, "h": h, "n": n}

    def _crossed(self, old: Tensor, new: Tensor, threshold: Tensor) -> Tensor:
        """1 where the potential rose through the threshold, with the surrogate's gradient."""
        below = (old < threshold).to(new.dtype).detach()
        hard = below * (new >= threshold)
        soft = spike(new - threshold, self.surrogate, self.slope) * below
        # A potential on the threshold has crossed it, where the step function still gives 0.
        return soft + (hard - soft).detach()

    def _strang(
        self, y: tuple[Tensor, ...], current: Tensor, dt: float, p: State
    ) -> tuple[Tensor, ...]:
        v, *gates = y
        v = _relaxed(v, gates, current, dt / 2, p)
        gates = self._moved(v, gates, dt, p)
        return _relaxed(v, gates, current, dt / 2, p), *gates

    def _exponential(
        self, y: tuple[Tensor, ...], current: Tensor, dt: float, p: State
    ) -> tuple[Tensor, ...]:
        v, *gates = y
        return _relaxed(v, gates, current, dt, p), *self._moved(v, gates, dt, p)

    def _classical(
        self, y: tuple[Tensor, ...], current: Tensor, dt: float, p: State
    ) -> tuple[Tensor, ...]:
        def derivative(y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            v, m, h, n = y
            r = self.rates(v)
            total, reversal = _conductance([m, h, n], p)
            return (
                (current + reversal - total * v) / p["C_m"],
                p["phi"] * (r.alpha_m * (1 - m) - r.beta_m * m),
                p["phi"] * (r.alpha_h * (1 - h) - r.beta_h * h),
                p["phi"] * (r.alpha_n * (1 - n) - r.beta_n * n),
            )

        return rk4(derivative, y, dt)

    def _moved(self, v: Tensor, gates: list[Tensor], dt: float, p: State) -> list[Tensor]:
        """Gates after a time at one potential."""
        r, time = self.rates(v), -dt * p["phi"]
        pairs = ((r.alpha_m, r.beta_m), (r.alpha_h, r.beta_h), (r.alpha_n, r.beta_n))
        return [_gate(x, alpha, beta, time) for x, (alpha, beta) in zip(gates, pairs, strict=True)]


def _gate(x: Tensor, alpha: Tensor, beta: Tensor, time: Tensor) -> Tensor:
    total = alpha + beta
    return torch.lerp(alpha / total, x, torch.exp(time * total))


def _conductance(gates: list[Tensor], p: State) -> tuple[Tensor, Tensor]:
    """Total conductance, and conductances times their reversal potentials."""
    m, h, n = gates
    sodium, potassium = p["g_Na"] * (m * m * m * h), p["g_K"] * n.square().square()
    reversal = sodium * p["E_Na"] + potassium * p["E_K"] + p["g_L"] * p["E_L"]
    return sodium + potassium + p["g_L"], reversal


def _relaxed(v: Tensor, gates: list[Tensor], current: Tensor, dt: float, p: State) -> Tensor:
    """Potential after a time at given gates."""
    total, reversal = _conductance(gates, p)
    target = (reversal + current) / total
    return torch.lerp(target, v, torch.exp(-dt * total / p["C_m"]))


def _ratio(z: Tensor) -> Tensor:
    """The ratio z / (exp(z) - 1), which is 1 at 0, with a gradient there too."""
    near = z.abs() < 0.02
    # Past 80 the ratio is below 1e-32, and beyond 88 exp overflows in float32.
    far = torch.where(near, 1.0, z.clamp(max=80.0))
    square = z.square()
    series = 1 - z / 2 + square / 12 - square.square() / 720
    return torch.where(near, series, far / torch.expm1(far))
