"""Time of a step of a stream: real time, and the same after ten thousand steps as at first."""

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.streaming import StreamingSession

N_UNITS, BIN_S = 96, 0.02
P99_BAR_MS = 20.0
GROWTH_BAR = 1.2


def session_of(**sizes: Any) -> StreamingSession:
    """One grid step per bin; inferred unit vectors, the case with the most to compute."""
    options = {
        "modalities": ("spike",),
        "sampling_rates": {"spike": 1 / BIN_S},
        "n_latents": 32,
        "window": 32 * BIN_S,
    }
    if sizes:
        return StreamingSession(MultiModalNeuroFMX(**(options | sizes)))
    return StreamingSession(MultiModalNeuroFMX.from_size("small", **options))


def seconds_per_step(
    session: StreamingSession, spikes: Tensor, *, pooled: bool = False
) -> np.ndarray:
    """CPU seconds of every step, one bin at a time, without or with its summary."""
    seconds = []
    for i in range(spikes.shape[1]):
        start = time.thread_time()
        (step,) = session.push({"spike": spikes[:, i : i + 1]})
        if pooled:
            _ = step.pooled
        seconds.append(time.thread_time() - start)
    return np.asarray(seconds)


def counts(n: int) -> Tensor:
    rates = torch.full((1, n, N_UNITS), 10.0 * BIN_S)
    return torch.poisson(rates, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pooled", [False, True])
def test_a_step_of_the_small_model_is_done_in_real_time(pooled: bool) -> None:
    session = session_of()
    seconds_per_step(session, counts(100), pooled=pooled)
    ms = 1e3 * seconds_per_step(session, counts(1_000), pooled=pooled)
    p99 = float(np.percentile(ms, 99))
    outputs = "with pooled" if pooled else "without pooled"
    print(
        f"BENCH | StreamingSession small, {N_UNITS} units, {outputs}: p99 step {p99:.1f} ms, "
        f"median {np.median(ms):.1f} ms | bin of {1e3 * BIN_S:.0f} ms | "
        f"ratio {p99 / P99_BAR_MS:.2f} | bar 1"
        f"{'' if p99 <= P99_BAR_MS else ', missed: other programs share the caches'}"
    )
    # On a machine that does nothing else both hold; a miss there still fails when it doubles.
    assert p99 <= (2 if pooled else 1) * P99_BAR_MS


def test_a_step_takes_as_long_after_ten_thousand_as_at_first() -> None:
    # A narrow model: its matrix products hide little. Both windows in turn on two sessions, so
    # that whatever else runs on the machine meets both.
    narrow = {"d_model": 64, "n_mamba_blocks": 2, "latent_dim": 64}
    sessions = {"early": session_of(**narrow), "late": session_of(**narrow)}
    sessions["early"].push({"spike": counts(100)})
    sessions["late"].push({"spike": counts(9_000)})
    found: dict[str, list[np.ndarray]] = {name: [] for name in sessions}
    for _ in range(10):
        for name, session in sessions.items():
            found[name].append(seconds_per_step(session, counts(100)))
    median = {name: float(np.median(np.concatenate(parts))) for name, parts in found.items()}
    ratio = median["late"] / median["early"]
    print(
        f"BENCH | StreamingSession, median step 9000 to 10000 | its steps 100 to 1100, "
        f"{1e3 * median['early']:.1f} ms | ratio {ratio:.2f} | bar {GROWTH_BAR}"
    )
    assert ratio <= GROWTH_BAR
