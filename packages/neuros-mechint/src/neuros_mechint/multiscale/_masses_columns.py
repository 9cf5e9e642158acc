"""Neural masses of excitatory and inhibitory populations: Jansen and Rit, Wilson and Cowan."""

import torch
from torch import Tensor

from neuros_mechint.multiscale._masses_equations import Equations, Numbers
from neuros_mechint.multiscale._masses_jansen_rit import derivative

__all__ = ["jansen_rit", "wilson_cowan"]


def jansen_rit() -> Equations:
    """A column of pyramidal cells, excitatory and inhibitory interneurons (Jansen & Rit 1995).

    The states are postsynaptic potentials y0, y1, y2 and their derivatives y3, y4, y5. What a
    column sends is the sigmoid of its pyramidal potential y1 - y2.
    """
    return Equations(
        name="jansen-rit",
        states=("y0", "y1", "y2", "y3", "y4", "y5"),
        defaults={
            "A": 3.25, "B": 22.0, "a": 0.1, "b": 0.05, "v0": 5.52, "nu_max": 0.0025, "r": 0.56,
            "J": 135.0, "a_1": 1.0, "a_2": 0.8, "a_3": 0.25, "a_4": 0.25, "mu": 0.22,
            "cmax": 0.005, "midpoint": 6.0, "steepness": 0.56,
        },
        n_sources=1,
        n_couplings=1,
        constants=_jansen_rit_constants,
        derivative=derivative,
        source=_jansen_rit_source,
        couple=_plain,
        observe=_pyramidal,
        emit=lambda value: value[None],
        start=lambda like: like.new_zeros(6, like.shape[0]),
    )  # fmt: skip


def wilson_cowan() -> Equations:
    """Excitatory and inhibitory rates E and I (Wilson & Cowan 1972); a region sends E."""
    return Equations(
        name="wilson-cowan",
        states=("E", "I"),
        defaults={
            "c_ee": 12.0, "c_ei": 4.0, "c_ie": 13.0, "c_ii": 11.0, "tau_e": 10.0, "tau_i": 10.0,
            "a_e": 1.2, "b_e": 2.8, "c_e": 1.0, "theta_e": 0.0, "a_i": 1.0, "b_i": 4.0,
            "c_i": 1.0, "theta_i": 0.0, "r_e": 1.0, "r_i": 1.0, "k_e": 1.0, "k_i": 1.0, "P": 0.0,
            "Q": 0.0, "alpha_e": 1.0, "alpha_i": 1.0,
        },
        n_sources=1,
        n_couplings=1,
        constants=_wilson_cowan_constants,
        derivative=_wilson_cowan_derivative,
        source=lambda x, _: torch.split(x, 1)[0],
        couple=_plain,
        observe=lambda x: x.unbind(-3)[0],
        emit=lambda value: value[None],
        start=lambda like: like.new_full((2, like.shape[0]), 0.1),
    )  # fmt: skip


def _plain(x: Tensor, sums: Tensor, p: Numbers) -> Tensor:
    del x, p
    return sums


def _stacked(*rows: Tensor) -> Tensor:
    # All are (region or 1, set or 1).
    regions, sets = (max(row.shape[axis] for row in rows) for axis in (0, 1))
    return torch.stack([row.expand(regions, sets) for row in rows])


def _jansen_rit_constants(p: Numbers) -> Numbers:
    twice = 2 * p["nu_max"]
    # The three sigmoids and the three second-order filters are one operation each.
    slope = _stacked(p["r"], p["r"] * p["a_1"] * p["J"], p["r"] * p["a_3"] * p["J"])
    gain = _stacked(
        p["A"] * p["a"] * twice,
        p["A"] * p["a"] * p["a_2"] * p["J"] * twice,
        p["B"] * p["b"] * p["a_4"] * p["J"] * twice,
    )
    rate = _stacked(p["a"], p["a"], p["b"])
    return {
        # Rows pick y1 - y2, y0 and y0 of the potentials.
        "arguments": rate.new_tensor([[0.0, 1, -1], [1, 0, 0], [1, 0, 0]]),
        "pyramidal": rate.new_tensor([[0.0, 1, -1, 0, 0, 0]]),
        "slope": slope,
        "shift": -p["r"] * p["v0"],
        "gain": gain,
        "damping": -2 * rate,
        "stiffness": -rate.square(),
        "entry": p["A"] * p["a"],
        "mu": p["mu"],
        "cmax": p["cmax"],
        "steepness": p["steepness"],
        "middle": -p["steepness"] * p["midpoint"],
    }


def _pyramidal(x: Tensor) -> Tensor:
    _, y1, y2, *_ = x.unbind(-3)
    return y1 - y2


# A slice would leave a full-size zero tensor on the way back; a product does not.
def _jansen_rit_source(x: Tensor, p: Numbers) -> Tensor:
    """(1, region, set) of state (6, region, set)."""
    v = torch.mm(p["pyramidal"], x.reshape(6, -1)).view(1, *x.shape[1:])
    return p["cmax"] * torch.sigmoid(torch.addcmul(p["middle"], p["steepness"], v))


def _wilson_cowan_constants(p: Numbers) -> Numbers:
    # Both populations at once: rows are E and I.
    steep = _stacked(p["a_e"], p["a_i"])
    scale = steep * _stacked(p["alpha_e"], p["alpha_i"])
    threshold = steep * _stacked(p["b_e"], p["b_i"])
    offset = scale * _stacked(p["P"] - p["theta_e"], p["Q"] - p["theta_i"]) - threshold
    height = _stacked(p["c_e"], p["c_i"])
    tau = _stacked(p["tau_e"], p["tau_i"])
    return {
        "from_e": scale * _stacked(p["c_ee"], p["c_ie"]),
        "from_i": -scale * _stacked(p["c_ei"], p["c_ii"]),
        "entry": scale * _stacked(torch.ones_like(p["P"]), torch.zeros_like(p["P"])),
        "offset": offset,
        "height": height,
        # Without input the rates rest at zero: the curves are moved down.
        "rest": -height * torch.sigmoid(-threshold),
        "k": _stacked(p["k_e"], p["k_i"]) / tau,
        "r": -_stacked(p["r_e"], p["r_i"]) / tau,
        "rate": -1 / tau,
    }


def _wilson_cowan_derivative(x: Tensor, c: Tensor, p: Numbers) -> Tensor:
    """(2, region, set) of state (2, region, set) and coupling (1, region, set)."""
    rate_e, rate_i = torch.split(x, 1)
    drive = torch.addcmul(torch.addcmul(p["offset"], p["from_e"], rate_e), p["from_i"], rate_i)
    drive = torch.addcmul(drive, p["entry"], c)
    response = torch.addcmul(p["rest"], p["height"], torch.sigmoid(drive))
    return torch.addcmul(p["rate"] * x, torch.addcmul(p["k"], p["r"], x), response)
