"""The dimension of a stream."""

import io
import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neuros_mechint.fractals import (
    HiguchiFractalDimension,
    MonitorAlert,
    MonitorState,
    RealtimeMonitor,
    monitor_stream,
)


def walk(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(shape).cumsum(-1)


def batch_dimension(x: NDArray[np.float64], window: int, k_max: int) -> NDArray[np.float64]:
    windows = np.lib.stride_tricks.sliding_window_view(x, window, axis=-1)
    return HiguchiFractalDimension(k_max=k_max).compute(windows.copy())


@given(
    window=st.integers(21, 120),
    k_max=st.integers(2, 10),
    channels=st.integers(1, 3),
    cuts=st.lists(st.integers(0, 150), min_size=1, max_size=8),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, derandomize=True, deadline=None)
def test_every_value_is_that_of_the_last_window_however_the_stream_is_cut(
    window: int, k_max: int, channels: int, cuts: list[int], seed: int
) -> None:
    x = walk(channels, window + sum(cuts), seed=seed)
    monitor = RealtimeMonitor(window=window, k_max=k_max, channels=channels, low=None)
    edges = np.cumsum(cuts)
    states = [monitor.update(chunk) for chunk in np.split(x, edges, axis=1)]
    fd = np.concatenate([state.fd for state in states], axis=1)
    assert monitor.n_samples == x.shape[1]
    assert np.isnan(fd[:, : window - 1]).all()
    np.testing.assert_allclose(fd[:, window - 1 :], batch_dimension(x, window, k_max), atol=1e-10)


@pytest.mark.slow  # a million samples, 2 us each
def test_a_million_samples_leave_no_drift() -> None:
    # Not a multiple of the window: the sums are 137 samples old. The offset costs digits.
    n = 1_000_137
    x = 1e4 + np.random.default_rng(0).standard_normal(n)
    fd = RealtimeMonitor().update(x).fd
    last = HiguchiFractalDimension().compute(x[-1000:])
    assert abs(fd[-1] - last) < 1e-8
    middle = HiguchiFractalDimension().compute(x[500_500:501_500])
    assert abs(fd[501_499] - middle) < 1e-8


@pytest.mark.parametrize("size", [1e9, 1e15])
def test_an_artefact_leaves_no_trace_behind_it(size: float) -> None:
    x = np.random.default_rng(0).standard_normal(900)
    x[300] = size
    fd = RealtimeMonitor(window=200, k_max=5).update(x).fd
    np.testing.assert_allclose(fd[199:], batch_dimension(x, 200, 5), atol=1e-8)


def test_a_flat_stretch_has_no_dimension_and_the_signal_after_it_has() -> None:
    x = walk(600)
    x[150:300] = x[149]
    monitor = RealtimeMonitor(window=100, k_max=4)
    fd = monitor.update(x).fd
    assert np.isnan(fd[249:300]).all()
    assert np.isfinite(fd[99:248]).all()
    np.testing.assert_allclose(fd[301:], batch_dimension(x[202:], 100, 4), atol=1e-10)


def test_channels_do_not_mix() -> None:
    x = walk(3, 400)
    together = monitor_stream(x, window=100).fd
    for row, fd in zip(x, together, strict=True):
        np.testing.assert_allclose(monitor_stream(row, window=100).fd, fd, atol=1e-12)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_values_come_back_in_the_callers_kind_of_array(kind: str, dtype: str) -> None:
    x = (10 * np.random.default_rng(0).standard_normal(100)).astype(dtype)
    state = monitor_stream(x if kind == "numpy" else torch.from_numpy(x), window=50, k_max=5)
    expected = torch.float64 if dtype == "float64" else torch.float32
    fd = torch.as_tensor(state.fd)
    assert isinstance(state, MonitorState)
    assert isinstance(state.fd, np.ndarray if kind == "numpy" else torch.Tensor)
    assert fd.dtype == expected
    assert torch.as_tensor(state.alert).dtype == torch.bool
    assert fd[-1].item() == pytest.approx(
        HiguchiFractalDimension(k_max=5).compute(x[-50:].astype(float)), abs=1e-6
    )


def test_a_stream_with_a_gradient_is_watched_without_it() -> None:
    x = torch.randn(60, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert not monitor_stream(x, window=50).fd.requires_grad


def rough_and_smooth() -> NDArray[np.float64]:
    """White noise (dimension 2), a ramp (1), and noise again, 500 samples each."""
    rng = np.random.default_rng(0)
    return np.concatenate(
        [rng.standard_normal(500), np.linspace(0, 50, 500), rng.standard_normal(500)]
    )


@pytest.mark.parametrize("chunk", [7, 37, 1500])
def test_an_alert_begins_below_the_threshold_and_ends_well_above_it(
    chunk: int, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[MonitorAlert] = []
    monitor = RealtimeMonitor(window=200, low=1.5, hysteresis=0.2, on_alert=heard.append)
    caplog.set_level(logging.INFO, logger="neuros_mechint.fractals")
    parts = [
        monitor.update(part) for part in np.split(rough_and_smooth(), np.arange(chunk, 1500, chunk))
    ]
    fd = np.concatenate([part.fd for part in parts])
    alert = np.concatenate([part.alert for part in parts])
    begin = int(np.flatnonzero(fd < 1.5)[0])
    end = begin + int(np.flatnonzero(fd[begin:] >= 1.7)[0])
    assert 500 < begin < 700 < 1000 < end < 1200
    expected = np.zeros(1500, dtype=bool)
    expected[begin:end] = True
    np.testing.assert_array_equal(alert, expected)
    assert heard == [
        MonitorAlert(0, begin, fd[begin], active=True),
        MonitorAlert(0, end, fd[end], active=False),
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert f"channel 0: dimension {fd[begin]:.3f} at sample {begin} left" in caplog.text


def test_hysteresis_keeps_a_value_at_the_threshold_from_ringing() -> None:
    x = walk(20_000)
    threshold = float(np.nanmedian(monitor_stream(x, window=300, low=None).fd))
    counts = []
    for hysteresis in (0.0, 0.1):
        alert = monitor_stream(x, window=300, low=threshold, hysteresis=hysteresis).alert
        counts.append(np.count_nonzero(np.diff(alert.astype(int))))
    assert counts[0] > 5 * counts[1] > 0


def test_a_high_threshold_and_several_channels_alert_by_themselves() -> None:
    heard: list[MonitorAlert] = []
    x = np.stack([rough_and_smooth(), np.linspace(0, 1, 1500)])
    monitor = RealtimeMonitor(window=200, low=None, high=1.5, channels=2, on_alert=heard.append)
    alert = monitor.update(x).alert
    assert alert[0, 199]
    assert not alert[0, 900]
    assert not alert[1].any()
    assert [(event.channel, event.active) for event in heard] == [(0, True), (0, False), (0, True)]
    assert [event.sample for event in heard] == sorted(event.sample for event in heard)


def test_a_window_without_dimension_leaves_an_alert_as_it_is() -> None:
    x = np.concatenate([np.random.default_rng(0).standard_normal(100), np.ones(100)])
    state = monitor_stream(x, window=50, k_max=3, low=2.6)
    assert np.isnan(state.fd[-40:]).all()
    assert state.alert[49:].all()
    assert not monitor_stream(x, window=50, k_max=3, low=0.1).alert.any()


def test_no_thresholds_no_alerts() -> None:
    assert not monitor_stream(np.linspace(0, 1, 60), window=50, low=None).alert.any()


def test_a_state_goes_on_where_it_was_saved() -> None:
    x = walk(2, 1000)
    options = {"window": 150, "channels": 2, "low": 1.6}
    whole = RealtimeMonitor(**options)
    expected = whole.update(x)
    first = RealtimeMonitor(**options)
    first.update(x[:, :420])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = RealtimeMonitor(**options)
    second.load_state_dict(torch.load(file, weights_only=True))
    first.update(x[:, :100])  # a copy: what it sees no longer matters
    state = second.update(x[:, 420:])
    np.testing.assert_allclose(state.fd, expected.fd[:, 420:], atol=1e-12)
    np.testing.assert_array_equal(state.alert, expected.alert[:, 420:])


def test_a_state_of_less_than_a_window_goes_on_too() -> None:
    x = walk(300)
    first, second = RealtimeMonitor(window=150), RealtimeMonitor(window=150)
    first.update(x[:70])
    second.load_state_dict(first.state_dict())
    np.testing.assert_allclose(
        second.update(x[70:]).fd, monitor_stream(x, window=150).fd[70:], atol=1e-12
    )


def test_reset_forgets_the_stream_and_its_alert() -> None:
    monitor = RealtimeMonitor(window=50, k_max=3)
    assert monitor.update(np.linspace(0, 1, 80)).alert[-1]
    monitor.reset()
    assert monitor.n_samples == 0
    state = monitor.update(walk(49))
    assert np.isnan(state.fd).all()
    assert not state.alert.any()


def test_an_empty_chunk_changes_nothing() -> None:
    monitor = RealtimeMonitor(window=50, channels=2)
    monitor.update(walk(2, 70))
    state = monitor.update(np.zeros((2, 0)))
    assert state.fd.shape == state.alert.shape == (2, 0)
    assert monitor.n_samples == 70


def test_a_refused_chunk_changes_nothing() -> None:
    x = walk(200)
    monitor = RealtimeMonitor(window=100)
    monitor.update(x[:150])
    broken = x[150:].copy()
    broken[3] = math.nan
    with pytest.raises(ValueError, match=r"chunk must be finite, got NaN .* in 1 of 1 items"):
        monitor.update(broken)
    assert monitor.n_samples == 150
    np.testing.assert_allclose(
        monitor.update(x[150:]).fd, monitor_stream(x, window=100).fd[150:], atol=1e-12
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k_max": 1}, "k_max must be at least 2 to fit a line, got 1"),
        ({"window": 20}, r"window must be at least 2 \* k_max \+ 1 = 21 samples, got 20"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"hysteresis": -0.1}, "hysteresis must be at least 0, got -0.1"),
        ({"low": 1.5, "high": 1.55}, "from low = 1.5 to high = 1.55 has no inside"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RealtimeMonitor(**options)


def test_bad_chunks_and_states_are_refused() -> None:
    with pytest.raises(ValueError, match=r"chunk must have shape \(2, time\), got \(3, 50\)"):
        RealtimeMonitor(channels=2).update(np.zeros((3, 50)))
    with pytest.raises(ValueError, match=r"shape \(time,\) or \(1, time\), got \(1, 1, 5\)"):
        RealtimeMonitor().update(np.zeros((1, 1, 5)))
    with pytest.raises(ValueError, match=r"\(time,\) or \(channels, time\), got \(1, 1, 5\)"):
        monitor_stream(np.zeros((1, 1, 5)))
    with pytest.raises(TypeError, match="must be real"):
        RealtimeMonitor().update(np.zeros(5, dtype=complex))
    state = RealtimeMonitor(window=100).state_dict()
    with pytest.raises(ValueError, match="a monitor with window = 100, this one has 50"):
        RealtimeMonitor(window=50).load_state_dict(state)
    del state["all"]
    with pytest.raises(ValueError, match=r"the state lacks \['all'\]"):
        RealtimeMonitor(window=100).load_state_dict(state)


def test_repr_shows_every_option() -> None:
    assert repr(RealtimeMonitor(high=1.9)) == (
        "RealtimeMonitor(window=1000, k_max=10, low=1.2, high=1.9, hysteresis=0.05, channels=1)"
    )
