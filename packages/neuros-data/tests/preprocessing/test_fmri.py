"""Cleaning BOLD: drift, confounds and motion go, what is not explained stays."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from neuros_core import Signal
from neuros_data.preprocessing import CleanBold, framewise_displacement
from neuros_data.preprocessing.fmri import MOTION

RATE = 0.5
N = 300
ALONE: dict[str, Any] = {"white_matter": False, "csf": False, "motion": 0, "fd": None}


def _confounds(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    columns = {name: rng.normal(scale=0.01, size=N).cumsum() for name in MOTION}
    columns |= {name: rng.normal(size=N) for name in ("white_matter", "csf")}
    moved = np.zeros(N)
    moved[[0, 40, 41, 200]] = [np.nan, 0.9, 0.51, 3.0]
    return {**columns, "framewise_displacement": moved}


def _bold(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, 4)) + 500


def test_scrubbed_volumes_are_invalid_and_the_others_are_not() -> None:
    out = CleanBold().apply(Signal(_bold(), rate=RATE), _confounds())
    assert np.flatnonzero(np.isnan(out.data).any(axis=1)).tolist() == [40, 41, 200]
    assert out.valid is not None
    assert not out.valid[[40, 41, 200]].any()
    assert out.data.shape == (N, 4)


def test_what_happens_in_a_scrubbed_volume_changes_nothing() -> None:
    x = _bold()
    moved = x.copy()
    moved[200] += 1e4
    table = _confounds()
    one, other = (CleanBold().apply(Signal(a, rate=RATE), table).data for a in (x, moved))
    np.testing.assert_allclose(one, other, atol=1e-9)


def test_what_confounds_explain_is_taken_out() -> None:
    table = _confounds()
    clean = CleanBold(fd=None)
    weights = np.random.default_rng(2).normal(size=(3, 4))
    source = np.stack([table["csf"], table["trans_x"], table["rot_z"] ** 2], axis=1)
    x = _bold()
    one = clean.apply(Signal(x, rate=RATE), table).data
    other = clean.apply(Signal(x + 1e2 * source @ weights, rate=RATE), table).data
    np.testing.assert_allclose(one, other, atol=1e-8)
    alone = CleanBold(**ALONE).apply(Signal(x + 1e2 * source @ weights, rate=RATE), {}).data
    assert np.abs(alone - one).max() > 1


def test_a_drift_and_fast_fluctuations_go_and_a_slow_wave_stays() -> None:
    t = np.arange(N) / RATE
    wave = np.sin(2 * np.pi * 0.04 * t)
    fast = np.sin(2 * np.pi * 0.22 * t)
    x = Signal((wave + fast + 0.3 * t + 900)[:, None], rate=RATE)
    out = CleanBold(**ALONE).apply(x, {}).data[:, 0]
    np.testing.assert_allclose(out[100:-100], wave[100:-100], atol=0.05)
    unfiltered = CleanBold(low=None, high=None, **ALONE).apply(x, {}).data[:, 0]
    np.testing.assert_allclose(unfiltered, (wave + fast) - _line(t, wave + fast), atol=1e-9)
    kept = CleanBold(low=None, high=None, detrend=False, **ALONE).apply(x, {}).data
    np.testing.assert_array_equal(kept, x.data)


def _line(t: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.polyval(np.polyfit(t, x, 1), t)


def test_one_sided_bands() -> None:
    t = np.arange(N) / RATE
    slow, fast = np.sin(2 * np.pi * 0.02 * t), np.sin(2 * np.pi * 0.2 * t)
    x = Signal((slow + fast)[:, None], rate=RATE)
    low = CleanBold(low=None, high=0.1, detrend=False, **ALONE).apply(x, {}).data[:, 0]
    high = CleanBold(low=0.08, high=None, detrend=False, **ALONE).apply(x, {}).data[:, 0]
    np.testing.assert_allclose(low[60:-60], slow[60:-60], atol=0.02)
    np.testing.assert_allclose(high[60:-60], fast[60:-60], atol=0.02)


def test_a_parcel_without_voxels_stays_invalid_and_spoils_no_other() -> None:
    x = _bold()
    whole = CleanBold().apply(Signal(x, rate=RATE), _confounds()).data
    x = x.copy()
    x[:, 2] = np.nan
    out = CleanBold().apply(Signal(x, rate=RATE), _confounds())
    assert np.isnan(out.data[:, 2]).all()
    np.testing.assert_allclose(out.data[:, [0, 1, 3]], whole[:, [0, 1, 3]], atol=1e-10)


def test_without_a_column_of_displacement_it_is_computed_from_motion() -> None:
    table = _confounds()
    del table["framewise_displacement"]
    table["trans_x"] = np.where(np.arange(N) >= 100, 5.0, 0.0)
    table |= {name: np.zeros(N) for name in MOTION[1:]}
    out = CleanBold(motion=6).apply(Signal(_bold(), rate=RATE), table)
    assert np.flatnonzero(np.isnan(out.data[:, 0])).tolist() == [100]


def test_leading_and_trailing_motion_does_not_run_away() -> None:
    table = _confounds()
    moved = np.zeros(N)
    moved[:5] = moved[-9:] = 9.0
    clean = CleanBold(motion=6)
    out = clean.apply(Signal(_bold(), rate=RATE), table | {"framewise_displacement": moved})
    assert np.isnan(out.data[:5]).all()
    assert np.nanmax(np.abs(out.data)) < 5


def test_displacement_is_in_millimetres_on_a_sphere_of_50() -> None:
    motion = np.zeros((3, 6))
    motion[1] = [0.1, -0.2, 0.0, 0.0, 0.002, -0.001]
    np.testing.assert_allclose(framewise_displacement(motion), [0.0, 0.45, 0.45])


def test_the_support_is_the_whole_recording() -> None:
    assert CleanBold().support(RATE) == np.inf
    assert CleanBold().output_rate(RATE) == RATE
    assert CleanBold(**asdict(CleanBold(motion=6))) == CleanBold(motion=6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: CleanBold(motion=12), "motion needs 0, 6 or 24, got 12"),
        (lambda: CleanBold(fd=0), "fd needs a positive number, got 0"),
        (lambda: CleanBold(low=0.2), "needs low < high, got 0.2 and 0.1 Hz"),
        (lambda: framewise_displacement(np.zeros((3, 5))), r"shape \(volume, 6\), got \(3, 5\)"),
        (
            lambda: CleanBold().apply(Signal(np.ones((2, 1)), times=np.arange(2.0)), {}),
            "cleaning BOLD needs a regular clock",
        ),
        (
            lambda: CleanBold().apply(Signal(_bold(), rate=RATE), {"csf": np.ones(N)}),
            "needs the confound 'trans_x', got csf; set its option",
        ),
        (
            lambda: CleanBold().apply(
                Signal(_bold(), rate=RATE), _confounds() | {"csf": np.ones(N - 1)}
            ),
            r"confound 'csf' needs 300 values, one a volume, got \(299,\)",
        ),
        (
            lambda: CleanBold().apply(
                Signal(_bold(), rate=RATE), _confounds() | {"csf": np.r_[1, np.nan, np.ones(N - 2)]}
            ),
            "confound 'csf' has no value at volume 1",
        ),
        (
            lambda: CleanBold().apply(
                Signal(_bold(), rate=RATE), _confounds() | {"framewise_displacement": np.ones(N)}
            ),
            "more volumes than confounds, got 0 volumes .* and 26 confounds",
        ),
        (
            lambda: CleanBold(high=0.25, **ALONE).apply(Signal(_bold(), rate=RATE), {}),
            "below the Nyquist frequency 0.25 Hz, got 0.25 Hz",
        ),
    ],
)
def test_what_cannot_be_cleaned_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()
