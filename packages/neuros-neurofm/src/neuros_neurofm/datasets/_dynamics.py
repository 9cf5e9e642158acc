"""Latent trajectories of known law, one row of points per trial."""

import math
from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float
from torch import Generator, Tensor

__all__ = ["DYNAMICS", "integrate_lorenz", "simulate"]

# Lorenz 1963: (sigma, rho, beta), and mean and standard deviation of each coordinate over 3e5 time
# units of the attractor; the mean of z is <xy> / beta, those of x and y are 0 by symmetry.
_SIGMA, _RHO, _BETA = 10.0, 28.0, 8.0 / 3.0
_LORENZ_MEAN: Final = (0.0, 0.0, 23.55)
_LORENZ_SD: Final = (7.92, 9.01, 8.62)

# Time units per Runge-Kutta step at most.
_LORENZ_DT = 0.01

# Time units before the first bin, drawn per trial. Off the attractor states shrink by exp(-14.6)
# per unit; a spread of the durations over several turns mixes the phases, which one duration for
# all would leave in step. Starts lie off the two slow spirals, which hold what comes near for long.
# tests/datasets/test_population.py holds the moments of the bins to those above.
_LORENZ_BURN_IN: Final = (4.0, 10.0)


def simulate(
    dynamics: str, n_trials: int, n_times: int, *, step: float, generator: Generator
) -> Float[Tensor, "trial time latent"]:
    """Trajectories of one of `DYNAMICS`, `step` time units between samples, float64."""
    return DYNAMICS[dynamics](n_trials, n_times, step, generator)


def _lorenz(n_trials: int, n_times: int, step: float, generator: Generator) -> Tensor:
    near_axis = 2 * _normal(2, n_trials, generator)
    height = 15 + 10 * _uniform(n_trials, generator)
    shortest, longest = _LORENZ_BURN_IN
    burn_in = shortest + (longest - shortest) * _uniform(n_trials, generator)
    state = integrate_lorenz(torch.cat([near_axis, height[None]]), burn_in)
    points = [state]
    for _ in range(n_times - 1):
        points.append(integrate_lorenz(points[-1], step))
    mean, deviation = state.new_tensor(_LORENZ_MEAN), state.new_tensor(_LORENZ_SD)
    return (torch.stack(points).permute(2, 0, 1) - mean) / deviation


def integrate_lorenz(
    state: Float[Tensor, "3 trial"], duration: float | Float[Tensor, " trial"]
) -> Float[Tensor, "3 trial"]:
    """The Lorenz system `duration` time units later, by Runge-Kutta 4 in steps of at most 0.01."""
    longest = float(duration.max()) if isinstance(duration, Tensor) else duration
    n_steps = max(1, math.ceil(longest / _LORENZ_DT - 1e-9))
    dt = duration / n_steps
    for _ in range(n_steps):
        k_1 = _lorenz_velocity(state)
        k_2 = _lorenz_velocity(state + dt / 2 * k_1)
        k_3 = _lorenz_velocity(state + dt / 2 * k_2)
        k_4 = _lorenz_velocity(state + dt * k_3)
        state = state + dt / 6 * (k_1 + 2 * (k_2 + k_3) + k_4)
    return state


def _lorenz_velocity(state: Float[Tensor, "3 trial"]) -> Float[Tensor, "3 trial"]:
    x, y, z = state
    return torch.stack([_SIGMA * (y - x), x * (_RHO - z) - y, x * y - _BETA * z])


def _ring(n_trials: int, n_times: int, step: float, generator: Generator) -> Tensor:
    noise = _normal(n_trials, n_times, generator)
    # Wrapped Brownian motion: steps of variance 2 dt make <cos(difference)> = exp(-dt).
    noise[:, 1:] *= math.sqrt(2 * step)
    noise[:, 0] = 2 * math.pi * _uniform(n_trials, generator)
    angle = noise.cumsum(dim=1)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def _line(n_trials: int, n_times: int, step: float, generator: Generator) -> Tensor:
    noise = _normal(n_trials, n_times, generator)
    # The exact discretisation of an Ornstein-Uhlenbeck process of variance 1.
    kept = math.exp(-step)
    points = [noise[:, 0]]
    for k in range(1, n_times):
        points.append(kept * points[-1] + math.sqrt(1 - kept**2) * noise[:, k])
    return torch.stack(points, dim=1)[..., None]


def _normal(n_rows: int, n_columns: int, generator: Generator) -> Float[Tensor, "row column"]:
    return torch.randn(
        n_rows, n_columns, generator=generator, device=generator.device, dtype=torch.float64
    )


def _uniform(n_trials: int, generator: Generator) -> Float[Tensor, " trial"]:
    return torch.rand(n_trials, generator=generator, device=generator.device, dtype=torch.float64)


DYNAMICS: Final[dict[str, Callable[[int, int, float, Generator], Tensor]]] = {
    "lorenz": _lorenz,
    "ring": _ring,
    "line": _line,
}
