"""References, wheels, baselines, units: known answers, causality, what is missing."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_core import Events, Signal
from neuros_data.preprocessing import AverageReference, DeltaF, Step, UnitQuality, WheelVelocity
from neuros_data.preprocessing.calcium import running_percentile


def test_the_mean_over_measured_electrodes_is_zero() -> None:
    x = np.random.default_rng(0).normal(size=(50, 5))
    x[10:20, 2] = np.nan
    out = AverageReference().apply(Signal(x, rate=10.0))
    np.testing.assert_allclose(np.nanmean(out.data, axis=1), 0.0, atol=1e-12)
    np.testing.assert_array_equal(np.isnan(out.data), np.isnan(x))
    # A constant on all electrodes is what a reference takes out.
    moved = AverageReference().apply(Signal(x + 3.0, rate=10.0))
    np.testing.assert_allclose(moved.data, out.data, atol=1e-12)


def test_an_excluded_electrode_is_referenced_but_has_no_vote() -> None:
    x = Signal(np.array([[1.0, 3.0, 100.0]]), rate=1.0, channels=("a", "b", "EOG"))
    out = AverageReference(exclude=("EOG",)).apply(x)
    np.testing.assert_array_equal(out.data, [[-1.0, 1.0, 98.0]])
    with pytest.raises(ValueError, match="exclude needs one of"):
        AverageReference(exclude=("c",)).apply(x)


def test_one_electrode_alone_has_no_reference() -> None:
    x = Signal(np.array([[1.0, np.nan], [1.0, 3.0]]), rate=1.0)
    out = AverageReference().apply(x)
    assert np.isnan(out.data[0]).all()
    assert out.data[1].tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("frequency", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("irregular", [False, True])
def test_the_velocity_of_a_sinusoid_is_known(frequency: float, irregular: bool) -> None:
    rng = np.random.default_rng(1)
    t = np.arange(0, 12, 0.001)
    if irregular:
        t = np.sort(rng.choice(t, 4 * len(t) // 5, replace=False))
    position = Signal(np.sin(2 * np.pi * frequency * t)[:, None], times=t, unit="rad")
    velocity = WheelVelocity(rate=100.0).apply(position)
    clock = velocity.start + np.arange(len(velocity.data)) / 100.0
    expected = 2 * np.pi * frequency * np.cos(2 * np.pi * frequency * clock)
    inner = (clock > 1) & (clock < 11)
    error = np.abs(velocity.data[inner, 0] - expected[inner]).max()
    assert error < 0.01 * 2 * np.pi * frequency
    assert velocity.unit == "rad/s"


def test_a_wheel_that_stands_still_has_no_velocity() -> None:
    t = np.array([0.0, 10.0])
    velocity = WheelVelocity().apply(Signal(np.full((2, 1), 4.0), times=t))
    np.testing.assert_allclose(velocity.data, 0.0, atol=1e-9)


def test_movement_beyond_the_support_does_not_move_the_wheel() -> None:
    step, rate = WheelVelocity(), 1000.0
    n, at = 8001, 4000
    x = np.zeros((n, 1))
    x[at] = 1.0
    out = np.abs(step.apply(Signal(x, rate=rate)).data[:, 0])
    apart = np.abs(np.arange(len(out)) / step.rate - at / rate)
    assert out[apart > step.support(rate)].max() < 1e-3 * out.max()
    assert step.output_rate(rate) == 50.0


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    st.lists(st.floats(-5, 5) | st.just(float("nan")), min_size=1, max_size=60),
    st.integers(1, 20),
    st.sampled_from([0.0, 8.0, 50.0, 100.0]),
)
def test_a_running_percentile_is_that_of_the_window(
    values: list[float], size: int, percentile: float
) -> None:
    x = np.array(values)
    found = running_percentile(x, size, percentile)
    for i in range(len(x)):
        window = x[max(0, i - size + 1) : i + 1]
        window = window[~np.isnan(window)]
        if not len(window):
            assert np.isnan(found[i])
        else:
            assert found[i] == np.percentile(window, percentile, method="lower")


@pytest.mark.parametrize("sentinel", [np.nan, 1e6])
@pytest.mark.parametrize("holes", [False, True])
def test_the_future_never_changes_a_relative_fluorescence(sentinel: float, holes: bool) -> None:
    x = 100 + np.random.default_rng(2).normal(size=(900, 3))
    if holes:
        x[50:60, 1] = np.nan
    later = x.copy()
    later[600:] = sentinel
    step = DeltaF(window=10.0)
    before, after = (step.apply(Signal(a, rate=30.0)).data[:600] for a in (x, later))
    np.testing.assert_array_equal(before, after)


def test_the_past_beyond_the_window_is_forgotten() -> None:
    x = 100 + np.random.default_rng(3).normal(size=(900, 1))
    earlier = x.copy()
    earlier[100] = 1e-3
    step = DeltaF(window=10.0)
    one, other = (step.apply(Signal(a, rate=30.0)).data for a in (x, earlier))
    changed = np.flatnonzero((one != other)[:, 0])
    assert changed[-1] / 30.0 <= 100 / 30.0 + step.support(30.0)


def test_a_step_in_fluorescence_is_its_relative_size() -> None:
    f = np.where(np.arange(3000) >= 2000, 150.0, 100.0)[:, None]
    neuropil = Signal(np.full((3000, 1), 50.0), rate=30.0)
    out = DeltaF().apply(Signal(f + 0.7 * 50, rate=30.0), neuropil)
    np.testing.assert_allclose(out.data[:2000], 0.0, atol=1e-12)
    np.testing.assert_allclose(out.data[2000:2100], 0.5)
    assert out.unit == "dF/F"
    assert (DeltaF().support(30.0), DeltaF().output_rate(30.0)) == (60.0, 30.0)


def test_a_baseline_that_is_not_positive_gives_no_value() -> None:
    out = DeltaF(window=2.0).apply(Signal(np.array([[-1.0], [2.0], [3.0]]), rate=1.0))
    assert np.isnan(out.data[:2]).all()
    assert out.data[2, 0] == 0.5
    assert out.valid is not None
    assert DeltaF().apply(Signal(np.ones((3, 0)), rate=1.0)).data.shape == (3, 0)


def _events(**table: Any) -> Events:
    times = np.array([0.1, 0.2, 0.3, 0.4])
    columns = {name: np.array(column) for name, column in table.items()}
    ids = np.array([0, 2, 1, 2])
    return Events(times, ids, 3, units=("a", "b", "c"), duration=9.0, table=columns)


def test_units_that_fail_are_left_out_with_their_spikes() -> None:
    events = _events(
        presence_ratio=[0.95, 0.9, 0.99],
        amplitude_cutoff=[0.0, 0.0, 0.05],
        isi_violations=[0, 0, 0],
    )
    good = UnitQuality().apply(events)
    assert (good.units, good.n_units, good.duration) == (("a", "c"), 2, 9.0)
    assert good.times.tolist() == [0.1, 0.2, 0.4]
    assert good.unit_ids.tolist() == [0, 1, 1]
    assert good.table["presence_ratio"].tolist() == [0.95, 0.99]


def test_a_metric_that_was_not_measured_is_not_passed() -> None:
    quality = UnitQuality(None, 0.1, None)
    assert quality.keep({"amplitude_cutoff": np.array([np.nan, 0.1, 0.0])}).tolist() == [
        False,
        False,
        True,
    ]
    assert quality.support(1.0) == 0.0


def test_the_steps_follow_the_protocol_and_come_back_from_their_settings() -> None:
    for step in (AverageReference(), WheelVelocity(), DeltaF()):
        assert isinstance(step, Step)
        assert type(step)(**asdict(step)) == step
    assert AverageReference().support(10.0) == 0.0
    assert AverageReference().output_rate(10.0) == 10.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: WheelVelocity(rate=0), "rate needs a positive number, got 0"),
        (lambda: WheelVelocity(rate=30.0), r"below the Nyquist frequencies of rate \(15.0 Hz\)"),
        (lambda: DeltaF(window=0), "window needs a positive number, got 0"),
        (lambda: DeltaF(percentile=101), r"percentile needs a number in \[0, 100\], got 101"),
        (lambda: DeltaF(neuropil=2), r"neuropil needs a share in \[0, 1\], got 2"),
        (
            lambda: DeltaF().apply(Signal(np.ones((2, 1)), times=np.arange(2.0))),
            "a running baseline needs a regular clock",
        ),
        (
            lambda: DeltaF().apply(Signal(np.ones((2, 1)), 1.0), Signal(np.ones((3, 1)), 1.0)),
            r"neuropil needs the shape of the signal \(2, 1\), got \(3, 1\)",
        ),
        (lambda: UnitQuality().apply(_events(label=[1, 1, 1])), "columns amplitude_cutoff, isi_"),
        (lambda: UnitQuality().keep({}), "the table has none; set their thresholds to None"),
        (lambda: UnitQuality(None, None, None).keep({}), "at least one threshold, got none"),
    ],
)
def test_what_cannot_be_prepared_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()
