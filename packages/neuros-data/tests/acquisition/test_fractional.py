"""The filter that gives its output at any instant."""

import numpy as np
import pytest

from neuros_data.acquisition._fractional import FractionalFilter

RATE, NEW_RATE = 1250.0, 500.0
SAMPLES = np.arange(5000) / RATE
# Instants that fall between the samples, away from the ends.
INSTANTS = 0.5 + (np.arange(1200) + 0.37) / NEW_RATE


def _through(frequency: float) -> np.ndarray:
    x = np.sin(2 * np.pi * frequency * SAMPLES)[:, None]
    return FractionalFilter(RATE, NEW_RATE).apply(x, INSTANTS * RATE)[:, 0]


@pytest.mark.parametrize("frequency", [1.0, 10.0, 100.0, 195.0])
def test_a_tone_that_passes_is_where_and_as_large_as_it_was(frequency: float) -> None:
    # 70 dB of ripple is 3e-4.
    truth = np.sin(2 * np.pi * frequency * INSTANTS)
    np.testing.assert_allclose(_through(frequency), truth, atol=1e-3)


@pytest.mark.parametrize("frequency", [251.0, 300.0, 420.0, 600.0])
def test_a_tone_above_the_new_nyquist_frequency_is_60_db_down(frequency: float) -> None:
    assert np.abs(_through(frequency)).max() < 1e-3


def test_a_level_is_kept_up_to_the_ends() -> None:
    kernel = FractionalFilter(RATE, NEW_RATE)
    out = kernel.apply(np.full((500, 2), 3.0), np.array([0.0, 0.5, 250.0, 499.0]), factor=2.0)
    np.testing.assert_allclose(out, 6.0, rtol=1e-12)


def test_a_sample_reaches_no_farther_than_the_support() -> None:
    kernel = FractionalFilter(RATE, NEW_RATE)
    impulse = np.zeros((2000, 1))
    impulse[1000] = 1.0
    position = np.arange(2000.0)
    reached = np.flatnonzero(kernel.apply(impulse, position)[:, 0]) / RATE
    assert reached[-1] - reached[0] <= 2 * kernel.support
