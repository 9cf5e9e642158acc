"""Numbers of the firing patterns of Naud et al. (2008)."""

from typing import NamedTuple

from neuros_mechint._arrays import Number

__all__ = ["REGIMES", "Regime"]


class Regime(NamedTuple):
    """One pattern: numbers of the model, and the step of current that brings it out.

    All share V_T = -50 mV and Delta_T = 2 mV, start at E_L with w = 0, and end a spike at 0 mV.

    Attributes:
        capacitance: Capacitance, pF.
        leak: Leak conductance, nS.
        rest: Leak reversal potential, mV.
        coupling: Coupling of the adaptation to the potential, nS.
        tau_w: Time constant of the adaptation, ms.
        rise: Rise of the adaptation at a spike, pA.
        v_reset: Potential after a spike, mV.
        current: Input, pA.
    """

    capacitance: Number
    leak: Number
    rest: Number
    coupling: Number
    tau_w: Number
    rise: Number
    v_reset: Number
    current: Number


# Table 1 of the paper. Its row for the transient pattern (a = -10, b = 30, I = 350) fires without
# end; the numbers here are those that give the pattern of figure 4g.
REGIMES: dict[str, Regime] = {
    "tonic": Regime(200, 10, -70, 2, 30, 0, -58, 500),
    "adapting": Regime(200, 12, -70, 2, 300, 60, -58, 500),
    "initial_burst": Regime(130, 18, -58, 4, 150, 120, -50, 400),
    "bursting": Regime(200, 10, -58, 2, 120, 100, -46, 210),
    "irregular": Regime(100, 12, -60, -11, 130, 30, -48, 160),
    "transient": Regime(100, 10, -65, 10, 90, 100, -47, 180),
    "delayed": Regime(200, 12, -70, -10, 300, 0, -58, 300),
}
