"""Numbers and inputs of the twenty firing patterns of Izhikevich (2004)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from neuros_mechint._arrays import Number

__all__ = ["REGIMES", "Regime"]

_CLASSIC = (0.04, 5.0, 140.0)
_SHIFTED = (0.04, 4.1, 108.0)


class Regime(NamedTuple):
    """One pattern: parameters (a, b, c, d), step in ms, first potential, input and its length.

    Attributes:
        numbers: The parameters a, b, c and d.
        dt: Step, ms.
        start: First potential, mV; the first recovery is b times that unless given.
        duration: Length of the run, ms.
        current: Input at given times.
        quadratic: Coefficients of the potential.
        recovery: Form of the recovery.
        recovery_start: First recovery, or None.
    """

    numbers: tuple[Number, Number, Number, Number]
    dt: float
    start: Number
    duration: Number
    current: Callable[[Tensor], Tensor]
    quadratic: tuple[float, float, float] = _CLASSIC
    recovery: str = "linear"
    recovery_start: float | None = None


def _pulses(
    *pulses: tuple[Number, Number, Number], base: Number = 0.0
) -> Callable[[Tensor], Tensor]:
    """An input that takes each amplitude strictly between two times, and the base elsewhere."""

    def current(t: Tensor) -> Tensor:
        made = torch.full_like(t, base)
        for amplitude, begin, end in pulses:
            made = torch.where((t > begin) & (t < end), amplitude, made)
        return made

    return current


def _from(amplitude: Number, begin: Number) -> Callable[[Tensor], Tensor]:
    return _pulses((amplitude, begin, torch.inf))


def _ramp(slope: Number, begin: Number, base: Number = 0.0) -> Callable[[Tensor], Tensor]:
    return lambda t: base + slope * (t - begin).clamp(min=0)


def _slow_then_fast(t: Tensor) -> Tensor:
    slow = torch.where(t < 200, t / 25, 0.0)
    return torch.where((t >= 300) & (t < 312.5), (t - 300) / 12.5 * 4, slow)


_FIRST = 100 / 11

REGIMES: dict[str, Regime] = {
    "tonic_spiking": Regime((0.02, 0.2, -65, 6), 0.25, -70, 100, _from(14, 10)),
    "phasic_spiking": Regime((0.02, 0.25, -65, 6), 0.25, -64, 200, _from(0.5, 20)),
    "tonic_bursting": Regime((0.02, 0.2, -50, 2), 0.25, -70, 220, _from(15, 22)),
    "phasic_bursting": Regime((0.02, 0.25, -55, 0.05), 0.2, -64, 200, _from(0.6, 20)),
    "mixed_mode": Regime((0.02, 0.2, -55, 4), 0.25, -70, 160, _from(10, 16)),
    "spike_frequency_adaptation": Regime((0.01, 0.2, -65, 8), 0.25, -70, 85, _from(30, 8.5)),
    "class_1": Regime((0.02, -0.1, -55, 6), 0.25, -60, 300, _ramp(0.075, 30), _SHIFTED),
    "class_2": Regime((0.2, 0.26, -65, 0), 0.25, -64, 300, _ramp(0.015, 30, -0.5)),
    "spike_latency": Regime((0.02, 0.2, -65, 6), 0.2, -70, 100, _pulses((7.04, 10, 13))),
    "subthreshold_oscillations": Regime(
        (0.05, 0.26, -60, 0), 0.25, -62, 200, _pulses((2, 20, 25))
    ),
    "resonator": Regime(
        (0.1, 0.26, -60, -1), 0.25, -62, 400,
        _pulses(*((0.65, begin, begin + 4) for begin in (40, 60, 280, 320))),
    ),
    "integrator": Regime(
        (0.02, -0.1, -55, 6), 0.25, -60, 100,
        _pulses(*((9, begin, begin + 2) for begin in (_FIRST, _FIRST + 5, 70, 80))), _SHIFTED,
    ),
    "rebound_spike": Regime((0.03, 0.25, -60, 4), 0.2, -64, 200, _pulses((-15, 20, 25))),
    "rebound_burst": Regime((0.03, 0.25, -52, 0), 0.2, -64, 200, _pulses((-15, 20, 25))),
    "threshold_variability": Regime(
        (0.03, 0.25, -60, 4), 0.25, -64, 100, _pulses((1, 10, 15), (-6, 70, 75), (1, 80, 85))
    ),
    "bistability": Regime(
        (0.1, 0.26, -60, 0), 0.25, -61, 300,
        _pulses((1.24, 37.5, 42.5), (1.24, 216, 221), base=0.24),
    ),
    "depolarizing_afterpotential": Regime(
        (1, 0.2, -60, -21), 0.1, -70, 50, lambda t: torch.where((t - 10).abs() < 1, 20.0, 0.0)
    ),
    "accommodation": Regime(
        (0.02, 1, -55, 4), 0.5, -65, 400, _slow_then_fast, _CLASSIC, "accommodation", -16.0
    ),
    "inhibition_induced_spiking": Regime(
        (-0.02, -1, -60, 8), 0.5, -63.8, 350, _pulses((75, 50, 250), base=80)
    ),
    "inhibition_induced_bursting": Regime(
        (-0.026, -1, -45, -2), 0.5, -63.8, 350, _pulses((75, 50, 250), base=80)
    ),
}  # fmt: skip
