"""Signals whose law is known exactly."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

Draw = Callable[..., NDArray[np.float64]]


def draw_fgn(n: int, hurst: float, n_draws: int, seed: int) -> NDArray[np.float64]:
    """Fractional Gaussian noise by circulant embedding: exact, as its eigenvalues are >= 0."""
    k = np.arange(n + 1.0)
    h = 2 * hurst
    covariance = 0.5 * ((k + 1) ** h - 2 * k**h + np.abs(k - 1) ** h)
    circle = np.concatenate([covariance, covariance[-2:0:-1]])
    power = np.fft.fft(circle).real.clip(0)
    rng = np.random.default_rng(seed)
    shape = (n_draws, len(circle))
    z = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    return np.fft.fft(z * np.sqrt(power / len(circle))).real[:, :n]


def draw_spectrum(
    density: Callable[[NDArray[np.float64]], NDArray[np.float64]], n: int, n_draws: int, seed: int
) -> NDArray[np.float64]:
    """Noise of a given density (cycles per sample), cropped from a series four times as long."""
    freqs = np.fft.rfftfreq(4 * n)
    amplitude = np.zeros_like(freqs)
    amplitude[1:] = np.sqrt(density(freqs[1:]))
    rng = np.random.default_rng(seed)
    shape = (n_draws, len(freqs))
    z = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    return np.fft.irfft(z * amplitude, 4 * n)[:, :n]


@pytest.fixture(scope="session")
def fgn() -> Draw:
    return draw_fgn


@pytest.fixture(scope="session")
def shaped_noise() -> Draw:
    return draw_spectrum


@pytest.fixture(scope="session")
def power_law_noise() -> Draw:
    def draw(n: int, beta: float, n_draws: int, seed: int) -> NDArray[np.float64]:
        return draw_spectrum(lambda f: f**-beta, n, n_draws, seed)

    return draw
