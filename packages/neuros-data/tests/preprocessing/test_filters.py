"""Filters: what they keep, what they take out, how far they reach, what a gap does to them."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal as sp

from neuros_core import Signal
from neuros_data.preprocessing import Bandpass, Notch, describe_steps
from neuros_data.preprocessing._response import run_iir

FILTERS = [
    Bandpass(1.0, 30.0),
    Bandpass(high=30.0),
    Bandpass(low=2.0),
    Bandpass(1.0, 30.0, phase="causal"),
    Bandpass(1.0, 30.0, kind="iir"),
    Bandpass(high=30.0, kind="iir", order=8),
    Bandpass(low=2.0, kind="iir", order=2),
    Bandpass(1.0, 30.0, kind="iir", phase="causal"),
    Notch(50.0),
    Notch(50.0, phase="causal", harmonics=2),
]
CAUSAL = [f for f in FILTERS if f.phase == "causal"]
RATE = 250.0


def _signal(data: Any, rate: float = RATE) -> Signal:
    array = np.asarray(data, dtype=np.float64)
    return Signal(array if array.ndim == 2 else array[:, None], rate=rate, unit="V")


def _noise(n: int = 3000, channels: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, channels))


@pytest.mark.parametrize("step", FILTERS)
def test_a_sample_beyond_the_support_has_no_influence(step: Bandpass | Notch) -> None:
    n, at = 16_001, 8_000
    reach = int(np.ceil(step.support(RATE) * RATE))
    impulse = np.zeros(n)
    impulse[at] = 1.0
    out = np.abs(step.apply(_signal(impulse)).data[:, 0])
    assert out[: at - reach].max() < 1e-3
    assert out[at + reach + 1 :].max() < 1e-3
    # Also a constant that begins beyond the support, which is worse than one sample.
    constant = np.where(np.arange(n) > at + reach, 1.0, 0.0)
    moved = step.apply(_signal(constant)).data[: at + 1, 0]
    assert np.abs(moved).max() < 5e-3


@pytest.mark.parametrize("step", FILTERS)
def test_the_support_is_not_far_beyond_what_matters(step: Bandpass | Notch) -> None:
    n, at = 16_001, 8_000
    impulse = np.zeros(n)
    impulse[at] = 1.0
    out = np.abs(step.apply(_signal(impulse)).data[:, 0])
    lasting = np.flatnonzero(out > 1e-6 * out.max())
    farthest = max(at - lasting[0], lasting[-1] - at)
    assert step.support(RATE) * RATE <= farthest + 1


@pytest.mark.parametrize("step", CAUSAL)
@pytest.mark.parametrize("sentinel", [np.nan, 1e6])
def test_a_causal_filter_never_reads_the_future(step: Bandpass | Notch, sentinel: float) -> None:
    x = _noise()
    later = x.copy()
    later[2000:] = sentinel
    past = step.apply(_signal(x)).data[:2000]
    np.testing.assert_array_equal(step.apply(_signal(later)).data[:2000], past)


@pytest.mark.parametrize("step", [f for f in FILTERS if f.phase == "zero"])
def test_a_zero_phase_filter_commutes_with_time_reversal(step: Bandpass | Notch) -> None:
    x = _noise()
    forwards = step.apply(_signal(x)).data
    backwards = step.apply(_signal(x[::-1])).data[::-1]
    # Forwards and backwards differ in how the ends begin, and nowhere else.
    middle = slice(1200, 1800)
    np.testing.assert_allclose(backwards[middle], forwards[middle], atol=1e-3)


@pytest.mark.parametrize("kind", ["fir", "iir"])
def test_a_tone_in_the_band_stays_and_tones_outside_of_it_go(kind: Any) -> None:
    t = np.arange(10_000) / RATE
    inside, below, above = (np.sin(2 * np.pi * f * t) for f in (10.0, 0.1, 90.0))
    kept = Bandpass(1.0, 30.0, kind=kind).apply(_signal(inside + below + above + 2)).data[:, 0]
    middle = slice(3000, 7000)
    # A windowed sinc at 1 Hz lets 2 % of 0.1 Hz through: its transition begins at 0.
    np.testing.assert_allclose(kept[middle], inside[middle], atol=0.025)


def test_a_notch_takes_out_the_mains_and_its_multiples_and_little_else() -> None:
    t = np.arange(10_000) / 500.0
    hum = sum(np.sin(2 * np.pi * f * t) for f in (50.0, 100.0, 150.0))
    tone = np.sin(2 * np.pi * 20.0 * t)
    kept = Notch(50.0, harmonics=9).apply(_signal(tone + hum, 500.0)).data[:, 0]
    np.testing.assert_allclose(kept[3000:7000], tone[3000:7000], atol=0.01)
    assert Notch(50.0, harmonics=9).coefficients(500.0).shape == (4, 6)


def test_coefficients_run_as_scipy_runs_them() -> None:
    x = _noise()
    for step in (Bandpass(1.0, 30.0, kind="iir"), Bandpass(low=1.0, kind="iir", order=3), Notch()):
        expected = sp.sosfiltfilt(step.coefficients(RATE), x, axis=0)
        np.testing.assert_allclose(step.apply(_signal(x)).data, expected, rtol=1e-7, atol=1e-12)
    step = Bandpass(1.0, 30.0, kind="iir", phase="causal")
    sos = step.coefficients(RATE)
    expected = sp.sosfilt(sos, x, axis=0, zi=sp.sosfilt_zi(sos)[:, :, None] * x[:1])[0]
    np.testing.assert_allclose(step.apply(_signal(x)).data, expected, rtol=1e-7, atol=1e-12)


def test_causal_fir_is_the_zero_phase_one_half_its_length_later() -> None:
    x = _noise(4000)
    zero, causal = (Bandpass(1.0, 30.0, phase=p).apply(_signal(x)).data for p in ("zero", "causal"))
    half = len(Bandpass(1.0, 30.0).coefficients(RATE)) // 2
    np.testing.assert_allclose(causal[2 * half :], zero[half:-half], atol=1e-12)


@pytest.mark.parametrize("step", FILTERS)
def test_a_gap_stays_a_gap_and_splits_the_signal(step: Bandpass | Notch) -> None:
    x = _noise()
    x[1400:1500, 0] = np.nan
    out = step.apply(_signal(x))
    assert out.valid is not None
    assert np.isnan(out.data[1400:1500, 0]).all()
    np.testing.assert_array_equal(out.valid, ~np.isnan(x))
    # Each side is what it would be alone, and the other channel does not notice.
    alone = step.apply(_signal(x[:1400, :1])).data
    np.testing.assert_allclose(out.data[:1400, :1], alone, atol=1e-12)
    other = step.apply(_signal(x[:, 1:])).data
    np.testing.assert_allclose(out.data[:, 1:], other, atol=1e-12)


def test_samples_marked_invalid_count_as_missing() -> None:
    x = _noise(1000)
    valid = np.ones(x.shape, bool)
    valid[400:410, 1] = False
    x[400:410, 1] = 1e9
    out = Bandpass(high=30.0).apply(Signal(x, rate=RATE, valid=valid))
    assert np.isnan(out.data[400:410, 1]).all()
    assert np.nanmax(np.abs(out.data)) < 100


def test_a_stretch_shorter_than_a_period_is_marked_and_not_zeroed() -> None:
    x = _noise(1000, 1)
    x[500] = x[510] = np.nan
    out = Bandpass(1.0, 30.0).apply(_signal(x))
    assert np.isnan(out.data[500:511]).all()
    assert not np.isnan(out.data[:500]).any()
    short = Bandpass(1.0, 30.0).apply(_signal(np.where(np.arange(300) % 100 == 0, np.nan, 1.0)))
    assert np.isnan(short.data).all()


@settings(max_examples=15, derandomize=True, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 10.0), st.sampled_from(FILTERS), st.booleans())
def test_filters_are_linear(seed: int, factor: float, step: Any, holes: bool) -> None:
    x, y = _noise(600, 1, seed), _noise(600, 1, seed + 1)
    if holes:
        x[seed % 600] = np.nan
    total = step.apply(_signal(x + factor * y)).data
    one, two = step.apply(_signal(x)).data, step.apply(_signal(np.where(np.isnan(x), x, y))).data
    np.testing.assert_allclose(total, one + factor * two, atol=1e-8 * max(factor, 1))


def test_the_clock_names_and_unit_stay() -> None:
    x = Signal(_noise(1000), rate=RATE, unit="V", channels=("a", "b"), start=3.0)
    out = Bandpass(1.0).apply(x)
    assert (out.rate, out.unit, out.channels, out.start) == (RATE, "V", ("a", "b"), 3.0)
    assert Bandpass(1.0).output_rate(RATE) == Notch().output_rate(RATE) == RATE


def test_a_filter_is_saved_as_its_settings() -> None:
    step = Bandpass(1.0, 30.0, kind="iir")
    assert Bandpass(**asdict(step)) == step
    assert describe_steps([step, Notch()])[0]["step"] == "Bandpass"


def test_a_short_signal_is_continued_by_zeros_beyond_its_reflection() -> None:
    x = np.sin(2 * np.pi * 10 * np.arange(260) / RATE)
    out = Bandpass(1.0, 30.0).apply(_signal(x)).data
    assert np.isfinite(out).all()
    assert np.abs(out[100:160, 0] - x[100:160]).max() < 0.3


def test_an_order_eight_filter_of_one_sample_does_not_fail() -> None:
    sos = Bandpass(high=30.0, kind="iir").coefficients(RATE)
    np.testing.assert_allclose(run_iir(sos, np.ones((1, 1)), causal=False), 1.0, atol=1e-9)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Bandpass, "needs a low or a high corner, got neither"),
        (lambda: Bandpass(-1.0), "low needs a positive number, got -1"),
        (lambda: Bandpass(5.0, 5.0), "needs low < high, got 5.0 and 5.0 Hz"),
        (lambda: Bandpass(5.0, order=0), "order needs 1 or more, got 0"),
        (lambda: Bandpass(5.0, kind="box"), "kind needs one of"),
        (lambda: Bandpass(5.0, phase="late"), "phase needs one of"),
        (lambda: Bandpass(1.0, 125.0).support(RATE), "below the Nyquist frequency 125.0 Hz"),
        (lambda: Notch(0.0), "frequency needs a positive number, got 0"),
        (lambda: Notch(width=np.inf), "width needs a positive number, got inf"),
        (lambda: Notch(1.0, width=2.0), "width needs to be below 1.0 Hz, got 2.0 Hz"),
        (lambda: Notch(harmonics=0), "harmonics needs 1 or more, got 0"),
        (lambda: Notch(phase="late"), "phase needs one of"),
        (lambda: Notch(125.0).coefficients(RATE), "needs a rate above 250.0 Hz, got 250.0 Hz"),
        (lambda: Bandpass(1.0).apply(_signal(np.ones(249))), "one period, 1 s, got .* 0.996 s"),
        (lambda: Notch(50.0).apply(_signal(np.ones(4))), "one period, 0.02 s, got"),
        (
            lambda: Bandpass(1.0).apply(Signal(np.ones((2, 1)), times=np.arange(2.0))),
            "a filter needs a regular clock, got time stamps",
        ),
        (lambda: describe_steps([Notch]), "needs to be a dataclass object, got type"),
    ],
)
def test_what_cannot_be_filtered_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        wrong()
