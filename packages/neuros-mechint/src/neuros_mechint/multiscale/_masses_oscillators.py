"""Neural masses that oscillate: phases, exact mean fields, and normal forms."""

import math

import torch
from torch import Tensor

from neuros_mechint.multiscale._masses_equations import Equations, Numbers

__all__ = ["hopf", "kuramoto", "montbrio"]

# 10 Hz in rad/ms.
_ALPHA = 2 * math.pi * 0.01


def kuramoto() -> Equations:
    """A phase theta that turns by omega and is drawn to the phases it receives (Kuramoto 1984)."""
    return Equations(
        name="kuramoto",
        states=("theta",),
        defaults={"omega": _ALPHA},
        # sin(theta_j - theta_i) comes apart into what j sends and what i holds.
        n_sources=2,
        n_couplings=1,
        constants=lambda p: {"omega": p["omega"]},
        derivative=lambda x, c, p: (p["omega"] + c).expand_as(x),
        source=lambda x, _: torch.cat([x.sin(), x.cos()]),
        couple=_differences,
        observe=lambda x: x.unbind(-3)[0].sin(),
        emit=lambda value: torch.stack([value.sin(), value.cos()]),
        start=lambda like: _spread(like)[None],
    )


def montbrio() -> Equations:
    """Rate r (1/ms) and mean potential V of quadratic integrate-and-fire neurons.

    The mean field is exact (Montbrió, Pazó & Roxin 2015); a region sends both.
    """
    return Equations(
        name="montbrio",
        states=("r", "V"),
        defaults={
            "tau": 10.0, "I": 0.0, "Delta": 1.0, "J": 15.0, "eta": -5.0, "cr": 1.0, "cv": 0.0,
        },
        n_sources=2,
        n_couplings=1,
        constants=dict,
        derivative=_montbrio_derivative,
        source=lambda x, _: x,
        couple=_weighted,
        observe=lambda x: x.unbind(-3)[0],
        emit=lambda value: torch.stack([value, torch.zeros_like(value)]),
        start=lambda like: torch.stack([0.01 + 0 * like, -2 + 0 * like]),
        bound=_nonnegative,
    )  # fmt: skip


def hopf() -> Equations:
    """Normal form of an oscillation's onset at a = 0 (Deco et al. 2017), coupled by differences."""
    return Equations(
        name="hopf",
        states=("x", "y"),
        defaults={"a": -0.02, "omega": _ALPHA},
        n_sources=2,
        n_couplings=2,
        constants=dict,
        derivative=_hopf_derivative,
        source=lambda x, _: x,
        couple=lambda x, sums, p: sums - p["in_strength"] * x,
        observe=lambda x: x.unbind(-3)[0],
        emit=lambda value: torch.stack([value, torch.zeros_like(value)]),
        start=lambda like: 0.1 * torch.stack([_spread(like).cos(), _spread(like).sin()]),
    )


def _differences(x: Tensor, sums: Tensor, p: Numbers) -> Tensor:
    """Sums of sin(theta_j - theta_i)."""
    del p
    sines, cosines = torch.split(sums, 1)
    return x.cos() * sines - x.sin() * cosines


def _weighted(x: Tensor, sums: Tensor, p: Numbers) -> Tensor:
    del x
    rates, potentials = torch.split(sums, 1)
    return p["cr"] * rates + p["cv"] * potentials


def _nonnegative(x: Tensor) -> Tensor:
    """No rate is below zero."""
    r, v = torch.split(x, 1)
    return torch.cat([r.clamp(min=0), v])


def _spread(like: Tensor) -> Tensor:
    """Phases of the regions, evenly around the circle."""
    n = like.shape[0]
    return torch.arange(n, dtype=like.dtype, device=like.device) * (2 * math.pi / n)


def _montbrio_derivative(x: Tensor, c: Tensor, p: Numbers) -> Tensor:
    """(2, region, set) of state (2, region, set) and coupling (1, region, set)."""
    r, v = torch.split(x, 1)
    turn = math.pi * p["tau"] * r
    dr = (p["Delta"] / (math.pi * p["tau"]) + 2 * v * r) / p["tau"]
    dv = (v * v - turn * turn + p["eta"] + p["J"] * p["tau"] * r + p["I"] + c) / p["tau"]
    return torch.cat([dr, dv])


def _hopf_derivative(x: Tensor, c: Tensor, p: Numbers) -> Tensor:
    """(2, region, set) of state and coupling (2, region, set)."""
    grow = p["a"] - (x * x).sum(0, keepdim=True)
    first, second = torch.split(x, 1)
    turned = torch.cat([-second, first])
    return grow * x + p["omega"] * turned + c
