"""Gaussian noise with a power-law spectrum."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.fractals._draws import fast_length, read_batch, shaped

__all__ = ["ColoredNoise"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ColoredNoise:
    r"""Gaussian noise with $S(f) \propto f^{-\beta}$: complex normal amplitudes at every frequency.

    Random amplitudes, not only random phases: the periodogram of a draw scatters about the power
    law as that of a measured signal does (Timmer & König).

    Args:
        fmin: frequency in cycles per sample below which the spectrum is flat.
        normalize: `"std"`: the expected variance is 1. `"none"`: $S(f) = f^{-\beta}$, one-sided,
            per cycle per sample.
        periodic: True draws one period, which closes on itself. False draws at least twice the
            length and returns a part, so that no end knows of the other.

    Raises:
        ValueError: if `fmin` lies outside [0, 0.5] or `normalize` is unknown.

    Examples:
        >>> pink = ColoredNoise().generate(4096, 1.0, generator=torch.Generator().manual_seed(0))
        >>> pink.shape
        torch.Size([4096])
        >>> spectrum = torch.fft.rfft(ColoredNoise(periodic=True).generate(64, 2.0))
        >>> abs(spectrum[0].item()) < 1e-4
        True

    References:
        Timmer & König (1995). On generating power law noise. Astronomy and Astrophysics 300.
    """

    fmin: float = 0.0
    normalize: Literal["std", "none"] = "std"
    periodic: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.fmin <= 0.5:
            raise ValueError(f"fmin must lie in [0, 0.5] cycles per sample, got {self.fmin}")
        if self.normalize not in ("std", "none"):
            raise ValueError(f"normalize must be 'std' or 'none', got {self.normalize!r}")

    def generate(
        self,
        n_samples: int,
        beta: float,
        batch: int | None = None,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        r"""Draw signals.

        Args:
            n_samples: samples of a signal, at least 2.
            beta: exponent in [-3, 4]; 0 white, 1 pink, 2 Brownian.
            batch: number of signals.
            generator: source of randomness.
            dtype: of the result; the default one when None.
            device: of the result.

        Returns:
            `(n_samples,)`, or `(batch, n_samples)` when `batch` is given.

        Raises:
            ValueError: if a size is too small or `beta` lies outside [-3, 4].

        Examples:
            >>> ColoredNoise().generate(10, 0.0, batch=2).shape
            torch.Size([2, 10])
        """
        rows = read_batch(n_samples, 1, batch)
        if n_samples < 2:
            raise ValueError(f"n_samples must be at least 2, got {n_samples}")
        if not -3 <= beta <= 4:
            raise ValueError(f"beta must lie in [-3, 4], got {beta}")
        dtype = torch.get_default_dtype() if dtype is None else dtype
        period = n_samples if self.periodic else 2 * fast_length(n_samples)
        amplitude = _amplitude(period, float(beta), self.fmin, self.normalize)
        noise = torch.randn(
            rows, len(amplitude), 2, generator=generator, dtype=dtype, device=device
        )
        noise *= math.sqrt(0.5)
        if period % 2 == 0:
            # The coefficient at the Nyquist frequency is real, of the whole variance.
            noise[:, -1, 0] *= math.sqrt(2)
            noise[:, -1, 1] = 0
        coefficients = torch.view_as_complex(noise) * amplitude.to(noise)
        drawn = torch.fft.irfft(coefficients, n=period)[:, :n_samples]
        return shaped(drawn, 1, None) if batch is None else drawn


@lru_cache(maxsize=16)
def _amplitude(period: int, beta: float, fmin: float, normalize: str) -> Float[Tensor, " freq"]:
    """Root of the expected squared coefficient of each frequency, zero at 0."""
    f = torch.fft.rfftfreq(period, dtype=torch.float64)
    power = torch.pow(f.clamp(min=max(fmin, 1 / period)), -beta)
    power[0] = 0
    # Each frequency but the Nyquist one stands for itself and its mirror image.
    sides = torch.full_like(f, 2.0)
    sides[-1] = 1.0 if period % 2 == 0 else 2.0
    if normalize == "std":
        return torch.sqrt(power / (power * sides).sum()) * period
    # A one-sided density S gives a coefficient of variance S * period / 2.
    return torch.sqrt(power * period / 2)
