"""Spiking populations driven by latent dynamics, with everything about them known."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from neuros_neurofm.datasets._dynamics import DYNAMICS, simulate

__all__ = ["SyntheticSession", "synthetic_population"]


class SyntheticSession(NamedTuple):
    """One session: what was recorded and what it was made from.

    Attributes:
        counts: Spikes per bin, (trial, time, unit), float32.
        rates: Expected spikes per second given the latents, (trial, time, unit), float32.
        latents: State at every bin, (trial, time, latent), float32.
        weights: Loading of every unit on every latent, (latent, unit), float32.
        baselines: Log of the rate in Hz at the latent state 0, (unit,), float32.
        ids: Name of every unit, such as "s0/u3"; no two sessions share one.
        bin_s: Seconds per bin.
        session: Number of the session.
    """

    counts: Tensor
    rates: Tensor
    latents: Tensor
    weights: Tensor
    baselines: Tensor
    ids: tuple[str, ...]
    bin_s: float
    session: int

    def to_batch(self, trials: slice | Tensor | None = None) -> dict[str, Any]:
        """A `neuros_core.Batch` to decode the latents from the spikes.

        Args:
            trials: Which trials, as an index of the first axis; None: all.

        Returns:
            `spike` (batch, time, unit) with its `units` and `rates`; the latents as `behavior`
            (batch, time, latent) at the ends of the bins as `behavior_times`; `recording_index`,
            the number of the session.

        Raises:
            ValueError: `trials` leaves none.

        Examples:
            >>> import torch
            >>> session, = synthetic_population(1, 3, "line", generator=torch.Generator())
            >>> batch = session.to_batch(slice(8))
            >>> batch["spike"].shape, batch["units"], batch["rates"]
            (torch.Size([8, 100, 3]), {'spike': ('s0/u0', 's0/u1', 's0/u2')}, {'spike': 50.0})
        """
        chosen = slice(None) if trials is None else trials
        spike, latents = self.counts[chosen], self.latents[chosen]
        if spike.shape[0] == 0:
            raise ValueError(
                f"trials must choose at least one of the {self.counts.shape[0]} trials, "
                f"got {trials}"
            )
        n_rows, n_times, _ = spike.shape
        ends = self.bin_s * torch.arange(1, n_times + 1, device=spike.device)
        return {
            "spike": spike,
            "units": {"spike": self.ids},
            "rates": {"spike": 1 / self.bin_s},
            "behavior": latents,
            "behavior_times": ends.repeat(n_rows, 1),
            "recording_index": torch.full((n_rows,), self.session, device=spike.device),
        }


def synthetic_population(
    n_sessions: int,
    n_units: int,
    dynamics: str = "lorenz",
    noise: float = 0.0,
    *,
    generator: Generator,
    n_trials: int = 64,
    n_times: int = 100,
    bin_s: float = 0.02,
    speed: float = 1.0,
    mean_rate_hz: float = 10.0,
    modulation: float = 1.0,
) -> tuple[SyntheticSession, ...]:
    r"""Sessions that share their dynamics and no unit.

    Trial by trial a latent state $z_t$ runs, and every unit counts
    $n_{tu} \sim \mathrm{Poisson}(r_{tu}\, e^{\sigma\xi_{tu} - \sigma^2/2}\, \Delta)$ spikes, where
    $\ln r_{tu} = b_u + w_u \cdot z_t$, $\Delta$ is the bin and $\xi$ standard normal, independent
    in every bin. With m the expected count of a bin the variance is $m + m^2 (e^{\sigma^2} - 1)$:
    `noise` $= \sigma$ = 0 is Poisson, more is overdispersed around the same mean.

    - `lorenz`, 3 latents: the chaotic attractor (sigma, rho, beta = 10, 28, 8/3), integrated by
      Runge-Kutta 4 in steps of at most 0.01 time units, less its mean (0, 0, 23.55) and over its
      standard deviation (7.92, 9.01, 8.62): of mean 0 and variance 1 in the long run, and in the
      same coordinates in every call.
    - `ring`, 2 latents: $(\cos\theta, \sin\theta)$ of a wrapped Brownian motion; the units have von
      Mises tuning curves.
    - `line`, 1 latent: an Ornstein-Uhlenbeck process of mean 0 and variance 1.

    Time runs at `speed` units per second: those of the Lorenz equations (one turn of a wing takes
    about 0.75), or the rate at which ring and line forget, whose autocorrelation is
    $e^{-speed\,|t|}$. Directions of the weights are uniform, their norm is `modulation`; baselines
    are set so that every unit's mean rate over its session is `mean_rate_hz`.

    Args:
        n_sessions: Number of sessions.
        n_units: Units per session.
        dynamics: `lorenz`, `ring` or `line`.
        noise: Standard deviation of the private noise of the log rates, >= 0.
        generator: Where the randomness comes from; the tensors lie on its device.
        n_trials: Trials per session, each from a state of its own.
        n_times: Bins per trial.
        bin_s: Seconds per bin.
        speed: Time units per second.
        mean_rate_hz: Mean rate of every unit over its session.
        modulation: Norm of the weights of every unit, >= 0.

    Returns:
        One `SyntheticSession` per session.

    Raises:
        ValueError: An unknown dynamics, or a number out of range.

    Examples:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> first, second = synthetic_population(2, 5, generator=generator)
        >>> first.counts.shape, first.latents.shape, second.ids[0]
        (torch.Size([64, 100, 5]), torch.Size([64, 100, 3]), 's1/u0')
        >>> round(first.rates.mean().item(), 3)  # Hz
        10.0

    References:
        Lorenz, E. N. (1963). Deterministic nonperiodic flow. Journal of the Atmospheric Sciences,
        20(2). https://doi.org/10.1175/1520-0469(1963)020<0130:DNF>2.0.CO;2
    """
    if dynamics not in DYNAMICS:
        raise ValueError(f"dynamics must be one of {', '.join(DYNAMICS)}, got {dynamics!r}")
    _check_sizes(n_sessions=n_sessions, n_units=n_units, n_trials=n_trials, n_times=n_times)
    _check_numbers(bin_s=bin_s, speed=speed, mean_rate_hz=mean_rate_hz)
    _check_numbers(zero_allowed=True, noise=noise, modulation=modulation)
    paths = simulate(
        dynamics, n_sessions * n_trials, n_times, step=speed * bin_s, generator=generator
    )
    return tuple(
        _record(
            session,
            latents,
            modulation * _directions(latents.shape[-1], n_units, generator),
            noise=noise,
            bin_s=bin_s,
            mean_rate_hz=mean_rate_hz,
            generator=generator,
        )
        for session, latents in enumerate(paths.reshape(n_sessions, n_trials, *paths.shape[1:]))
    )


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be >= 1, got {size}")


def _check_numbers(*, zero_allowed: bool = False, **numbers: float) -> None:
    for name, value in numbers.items():
        if not 0.0 <= value < float("inf") or (value == 0 and not zero_allowed):
            least = ">= 0" if zero_allowed else "> 0"
            raise ValueError(f"{name} must be a finite number {least}, got {value}")


def _record(
    session: int,
    latents: Float[Tensor, "trial time latent"],
    weights: Float[Tensor, "latent unit"],
    *,
    noise: float,
    bin_s: float,
    mean_rate_hz: float,
    generator: Generator,
) -> SyntheticSession:
    log_rates = latents @ weights
    baselines = (mean_rate_hz / log_rates.exp().mean(dim=(0, 1))).log()
    rates = (log_rates + baselines).exp()
    return SyntheticSession(
        counts=_spikes(rates * bin_s, noise, generator).float(),
        rates=rates.float(),
        latents=latents.float(),
        weights=weights.float(),
        baselines=baselines.float(),
        ids=tuple(f"s{session}/u{unit}" for unit in range(weights.shape[1])),
        bin_s=bin_s,
        session=session,
    )


def _directions(n_latents: int, n_units: int, generator: Generator) -> Float[Tensor, "latent unit"]:
    """Points on the unit sphere, all directions equally likely."""
    points = torch.randn(
        n_latents, n_units, generator=generator, device=generator.device, dtype=torch.float64
    )
    return points / points.square().sum(dim=0).sqrt()


def _spikes(
    expected: Float[Tensor, "trial time unit"], noise: float, generator: Generator
) -> Float[Tensor, "trial time unit"]:
    if noise > 0:
        private = torch.randn(
            expected.shape, generator=generator, device=expected.device, dtype=expected.dtype
        )
        expected = expected * (noise * private - noise**2 / 2).exp()
    spikes: Tensor = torch.poisson(expected, generator=generator)
    return spikes
