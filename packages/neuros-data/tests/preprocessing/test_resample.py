"""Resampling: tones kept, tones folded, gaps, clocks."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_core import Signal
from neuros_data.preprocessing import Bandpass, Interpolate, Resample, apply_steps, support_seconds


def _tone(frequency: float, rate: float, seconds: float = 20.0) -> Signal:
    t = np.arange(round(seconds * rate)) / rate
    return Signal(np.sin(2 * np.pi * frequency * t + 0.3)[:, None], rate=rate)


def _amplitude(signal: Signal, frequency: float) -> float:
    """Amplitude at one frequency, by least squares over the middle."""
    n = len(signal.data)
    k = np.arange(n // 4, 3 * n // 4)
    t = k / float(signal.rate or 0)
    basis = np.stack([np.sin(2 * np.pi * frequency * t), np.cos(2 * np.pi * frequency * t)], axis=1)
    found = np.linalg.lstsq(basis, signal.data[k, 0], rcond=None)[0]
    return float(np.hypot(*found))


RATES = [(1000.0, 100.0), (1250.0, 500.0), (160.0, 250.0), (30.1, 30.0), (2048.0, 512.0)]


@pytest.mark.parametrize(("old", "new"), RATES)
def test_a_tone_of_10_hz_keeps_its_amplitude_and_its_phase(old: float, new: float) -> None:
    out = Resample(new).apply(_tone(10.0, old))
    assert out.rate == new
    assert abs(_amplitude(out, 10.0) - 1) < 0.005
    expected = _tone(10.0, new).data[: len(out.data)]
    middle = slice(len(expected) // 4, 3 * len(expected) // 4)
    np.testing.assert_allclose(out.data[middle], expected[middle], atol=0.005)


@pytest.mark.parametrize(("old", "new"), [(1000.0, 100.0), (1250.0, 500.0), (1000.0, 300.0)])
@pytest.mark.parametrize("above", [1.0, 1.02, 1.3, 1.9])
def test_a_tone_above_the_new_nyquist_frequency_is_60_db_down(
    old: float, new: float, above: float
) -> None:
    frequency = above * new / 2
    if frequency >= old / 2:
        pytest.skip("no such tone at the old rate")
    out = Resample(new).apply(_tone(frequency, old))
    middle = out.data[len(out.data) // 4 : 3 * len(out.data) // 4]
    assert np.abs(middle).max() < 1e-3


@settings(max_examples=30, derandomize=True, deadline=None)
@given(
    st.sampled_from([(100.0, 40.0), (100.0, 100.0), (60.0, 90.0), (50.0, 7.0)]),
    st.integers(2, 300),
    st.floats(-5, 5),
    st.data(),
)
def test_a_constant_stays_whatever_is_missing(
    rates: tuple[float, float], n: int, level: float, data: Any
) -> None:
    x = np.full((n, 2), level)
    x[data.draw(st.lists(st.integers(0, n - 1), max_size=n))] = np.nan
    out = Resample(rates[1]).apply(Signal(x, rate=rates[0]))
    assert len(out.data) == int(np.ceil(n * rates[1] / rates[0] - 1e-9))
    known = ~np.isnan(out.data)
    np.testing.assert_allclose(out.data[known], level, atol=1e-9)
    position = np.arange(len(out.data)) * rates[0] / rates[1]
    low = np.floor(position + 1e-9).astype(int).clip(0, n - 1)
    high = np.ceil(position - 1e-9).astype(int).clip(0, n - 1)
    expected = ~np.isnan(x[low, 0]) & ~np.isnan(x[high, 0])
    # A few samples between gaps may weigh too little under the filter to be told.
    assert not (known[:, 0] & ~expected).any()
    if not np.isnan(x).any():
        assert out.valid is None


def test_a_gap_does_not_spread() -> None:
    x = _tone(10.0, 1000.0)
    x.data[8000:8100] = np.nan
    out = Resample(100.0).apply(x)
    assert out.valid is not None
    assert np.flatnonzero(np.isnan(out.data[:, 0])).tolist() == list(range(800, 810))
    far = slice(200, 760)
    np.testing.assert_allclose(out.data[far], _tone(10.0, 100.0).data[far], atol=0.005)


@pytest.mark.parametrize(("old", "new"), RATES)
def test_a_sample_beyond_the_support_has_no_influence(old: float, new: float) -> None:
    n = 2 * round(6 * old) + 1
    impulse = np.zeros((n, 1))
    impulse[n // 2] = 1.0
    out = np.abs(Resample(new).apply(Signal(impulse, rate=old)).data[:, 0])
    apart = np.abs(np.arange(len(out)) / new - (n // 2) / old)
    assert out[apart > Resample(new).support(old)].max() < 1e-3
    assert out[apart <= Resample(new).support(old)].max() > 1e-3


def test_the_same_rate_changes_nothing() -> None:
    x = _tone(3.0, 50.0)
    np.testing.assert_array_equal(Resample(50.0).apply(x).data, x.data)
    assert Resample(50.0).support(50.0) == 0.0
    assert len(Resample(10.0).apply(Signal(np.zeros((0, 2)), rate=50.0)).data) == 0


def test_supports_add_and_rates_follow_each_other() -> None:
    steps = [Interpolate(500.0, longest_gap=0.1), Resample(100.0), Bandpass(1.0, 20.0)]
    parts = [0.1, Resample(100.0).support(500.0), Bandpass(1.0, 20.0).support(100.0)]
    assert support_seconds(steps, 60.0) == pytest.approx(sum(parts))
    assert apply_steps(_tone(5.0, 60.0), steps).rate == 100.0


def test_time_stamps_become_a_clock_by_straight_lines() -> None:
    times = np.array([2.0, 2.3, 2.5, 3.7, 4.0])
    x = Signal(np.stack([3 * times, np.full(5, np.nan)], axis=1), times=times, unit="rad")
    out = Interpolate(10.0).apply(x)
    assert (out.rate, out.start, out.times, out.unit) == (10.0, 2.0, None, "rad")
    np.testing.assert_allclose(out.data[:, 0], 3 * (2.0 + np.arange(21) / 10))
    assert np.isnan(out.data[:, 1]).all()


def test_a_long_gap_between_time_stamps_is_marked() -> None:
    times = np.array([0.0, 0.1, 0.2, 1.0, 1.1])
    out = Interpolate(10.0, longest_gap=0.5).apply(Signal(times[:, None] * 2, times=times))
    assert np.flatnonzero(np.isnan(out.data[:, 0])).tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert Interpolate(10.0).support(50.0) == 0.02


def test_a_missing_sample_between_time_stamps_is_bridged_but_ends_are_not() -> None:
    x = Signal(np.array([[np.nan], [1.0], [np.nan], [3.0], [np.nan]]), rate=1.0, start=5.0)
    out = Interpolate(1.0).apply(x)
    assert out.start == 5.0
    np.testing.assert_array_equal(out.data[:, 0], [np.nan, 1.0, 2.0, 3.0, np.nan])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Resample(0.0), "rate needs a positive number, got 0"),
        (lambda: Interpolate(np.nan), "rate needs a positive number, got nan"),
        (lambda: Interpolate(1.0, -1.0), "longest_gap needs a positive number, got -1"),
        (
            lambda: Resample(1.0).apply(Signal(np.ones((2, 1)), times=np.arange(2.0))),
            "resampling needs a regular clock",
        ),
        (
            lambda: Resample(np.pi).apply(Signal(np.ones((10_000_000, 0)), rate=1000.0)),
            "off by .* samples at the end; choose a rate such as 3.14",
        ),
        (
            lambda: Interpolate(1.0).apply(Signal(np.ones((0, 1)), rate=1.0)),
            "at least one sample, got none",
        ),
    ],
)
def test_what_cannot_be_resampled_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()
