"""Izhikevich's neurons, and the twenty published firing regimes."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from neuros_mechint._arrays import one_of
from neuros_mechint.biophysical._izhikevich_regimes import REGIMES, Regime
from neuros_mechint.biophysical._neuron import (
    BiophysicalNeuronBase,
    Parameter,
    State,
    fixed_or_reset,
    rk4,
)
from neuros_mechint.biophysical.surrogate import Surrogate

__all__ = ["IZHIKEVICH_REGIMES", "IzhikevichNeuron", "IzhikevichRegime"]

IZHIKEVICH_REGIMES: tuple[str, ...] = tuple(REGIMES)


class IzhikevichNeuron(BiophysicalNeuronBase):
    r"""Izhikevich's two-variable neurons.

    $\dot v = q_2 v^2 + q_1 v + q_0 - u + I$ and $\dot u = a(bv - u)$, or $a b (v + 65)$ with
    `recovery="accommodation"`. Above `v_peak` a neuron fires, $v \leftarrow c$ and
    $u \leftarrow u + d$. The scheme `euler` is the published one: v first with the old u, then u
    with the new v before its reset; firing patterns of the papers belong to it and to its step.

    A potential that overflows within a step counts as a spike, and u then takes `v_peak` in its
    place.

    Args:
        a: Rate of the recovery u, 1/ms.
        b: Sensitivity of u to v.
        c: Potential after a spike, mV.
        d: Rise of u at a spike.
        v_peak: Potential above which a spike is over, mV.
        quadratic: Coefficients $(q_2, q_1, q_0)$.
        recovery: `linear` or `accommodation`.
        scheme: `euler` or `rk4`.
        substeps: Equal parts of a step, with at most one spike reported per step.
        surrogate: Kind of `SurrogateGradient`, or a function of v - v_peak.
        slope: Steepness of the surrogate; None takes the kind's default.
        detach_reset: Whether the gradient treats the reset as given.
        learnable: Names among a, b, c, d and v_peak to train.

    Raises:
        TypeError: When a number is neither a float nor a floating tensor.
        ValueError: When c is not below `v_peak`, `substeps` is below 1, `quadratic` does not hold
            three numbers, or a word is not one of those above.

    Examples:
        >>> neuron, current, dt, state = IzhikevichNeuron.regime("tonic_spiking")
        >>> trace = neuron.simulate(current, dt, state=state)
        >>> (trace.spikes.nonzero()[:, 0] * dt).tolist()
        [13.0, 17.0, 31.5, 59.25, 86.75]

    References:
        Izhikevich, E. M. (2003). Simple model of spiking neurons. IEEE Transactions on Neural
        Networks, 14, 1569-1572. doi:10.1109/TNN.2003.820440

        Izhikevich, E. M. (2004). Which model to use for cortical spiking neurons? IEEE
        Transactions on Neural Networks, 15, 1063-1070. doi:10.1109/TNN.2004.832719
    """

    state_names: ClassVar[tuple[str, ...]] = ("voltage", "recovery")
    default_dt: ClassVar[float] = 0.25
    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    v_peak: Tensor

    def __init__(
        self,
        a: Parameter = 0.02,
        b: Parameter = 0.2,
        c: Parameter = -65.0,
        d: Parameter = 8.0,
        *,
        v_peak: Parameter = 30.0,
        quadratic: tuple[float, float, float] = (0.04, 5.0, 140.0),
        recovery: str = "linear",
        scheme: str = "euler",
        substeps: int = 1,
        surrogate: Surrogate = "fast_sigmoid",
        slope: float | None = 25.0,
        detach_reset: bool = True,
        learnable: Sequence[str] = (),
    ) -> None:
        one_of("recovery", recovery, ("linear", "accommodation"))
        one_of("scheme", scheme, ("euler", "rk4"))
        if substeps < 1:
            raise ValueError(f"substeps must be at least 1, got {substeps}")
        if len(quadratic) != 3:
            raise ValueError(f"quadratic must be (q2, q1, q0), got {len(quadratic)} numbers")
        super().__init__(
            {"a": a, "b": b, "c": c, "d": d, "v_peak": v_peak},
            surrogate=surrogate, slope=slope, detach_reset=detach_reset, learnable=learnable,
        )  # fmt: skip
        if not bool((self.c < self.v_peak).all()):
            raise ValueError(f"c must be below v_peak, got {c} and {v_peak}")
        self.quadratic, self.recovery = quadratic, recovery
        self.scheme, self.substeps = scheme, substeps

    @staticmethod
    def regime(name: str, *, dtype: torch.dtype = torch.float64) -> "IzhikevichRegime":
        """A published firing pattern, as neuron, input, step and first state.

        Args:
            name: One of `IZHIKEVICH_REGIMES`.
            dtype: Dtype of input and state; the published times belong to float64.

        Returns:
            What `neuron.simulate(current, dt, state=state)` reproduces the pattern from. Sample k
            of the current (time, 1) is the input at k dt, and a spike there is at k dt.

        Raises:
            ValueError: When the name is not on the list.
        """
        one_of("name", name, IZHIKEVICH_REGIMES)
        found: Regime = REGIMES[name]
        neuron = IzhikevichNeuron(
            *found.numbers, quadratic=found.quadratic, recovery=found.recovery
        )
        time = torch.arange(round(found.duration / found.dt) + 1, dtype=torch.float64) * found.dt
        recovery = (
            found.numbers[1] * found.start if found.recovery_start is None else found.recovery_start
        )
        state = {
            "voltage": torch.full((1,), found.start, dtype=dtype),
            "recovery": torch.full((1,), recovery, dtype=dtype),
        }
        return IzhikevichRegime(neuron, found.current(time)[:, None].to(dtype), found.dt, state)

    def _start(self, p: State) -> State:
        return {"voltage": p["c"], "recovery": p["b"] * p["c"]}

    def _step(self, current: Tensor, state: State, dt: float, p: State) -> tuple[Tensor, State]:
        v, u, silent = state["voltage"], state["recovery"], None
        for _ in range(self.substeps):
            fired, v, u = self._part(v, u, current, dt / self.substeps, p)
            silent = 1 - fired if silent is None else silent * (1 - fired)
        spikes = fired if self.substeps == 1 or silent is None else 1 - silent
        return spikes, {"voltage": v, "recovery": u}

    def _part(
        self, v: Tensor, u: Tensor, current: Tensor, h: float, p: State
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes, v and u after one part of a step."""
        if self.scheme == "euler":
            risen = v + h * (self._pull(v) - u + current)
            finite = torch.isfinite(risen)
            risen = torch.where(finite, risen, p["v_peak"])
            u = u + h * self._relax(risen, u, p)
        else:
            risen, moved = rk4(
                lambda y: (self._pull(y[0]) - y[1] + current, self._relax(y[0], y[1], p)), (v, u), h
            )
            finite = torch.isfinite(risen) & torch.isfinite(moved)
            risen = torch.where(finite, risen, p["v_peak"])
            u = torch.where(finite, moved, u + h * self._relax(p["v_peak"], u, p))
        # What overflowed stands at v_peak, and has passed it.
        above = torch.where(finite, risen - p["v_peak"], 1.0)
        fired, cut = self._fire(above)
        return fired, fixed_or_reset(cut, risen, p["c"]), u + cut * p["d"]

    def _pull(self, v: Tensor) -> Tensor:
        q2, q1, q0 = self.quadratic
        return q2 * v.square() + q1 * v + q0

    def _relax(self, v: Tensor, u: Tensor, p: State) -> Tensor:
        if self.recovery == "linear":
            return p["a"] * (p["b"] * v - u)
        return p["a"] * (p["b"] * (v + 65))


class IzhikevichRegime(NamedTuple):
    """A firing pattern ready to run.

    Attributes:
        neuron: The neuron.
        current: Input (time, 1).
        dt: Step in ms that the pattern belongs to.
        state: State at the start.
    """

    neuron: IzhikevichNeuron
    current: Tensor
    dt: float
    state: State
