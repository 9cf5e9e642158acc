"""Random windows from the store against a NumPy copy of the same windows from RAM."""

import gc
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from neuros_core import Recording, Signal, Species
from neuros_data import Normalizer, Quantization, Store
from neuros_data._readers import count_events

Make, Times = Callable[..., Store], Callable[..., list[float]]
Report = Callable[[str, str, float, float], None]
RATE, CHANNELS, TIME, BATCH = 256.0, 64, 256, 64


def batches(n_windows: int, n_batches: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, n_windows, (n_batches, BATCH))


@pytest.mark.parametrize(("kind", "bar"), [("float32", 0.8), ("int16", 0.7)])
def test_random_windows_keep_up_with_a_copy_from_memory(
    kind: str,
    bar: float,
    tmp_path: Path,
    one_recording: Make,
    best_times: Times,
    report: Report,
) -> None:
    counts = np.random.default_rng(1).integers(-20_000, 20_000, (int(RATE) * 1200, CHANNELS))
    # A scale for each channel: the harder case, a common one multiplies by one number.
    scale = np.linspace(0.5e-6, 1e-6, CHANNELS)
    quantize = {"eeg": Quantization(scale)} if kind == "int16" else None
    store = one_recording(tmp_path / "store", counts * scale, quantize)
    view = store.windows(window=TIME / RATE)
    plans = batches(len(view), 100).reshape(-1, 1, BATCH)
    turns = [itertools.cycle(plans) for _ in range(2)]
    ram = (counts * scale).astype(np.float32)
    reused = view.read_batch(plans[0, 0])
    target = np.empty((BATCH, TIME, CHANNELS), np.float32)
    np.testing.assert_allclose(view.read_batch([3])["eeg"][0], ram[3 * TIME : 4 * TIME], rtol=1e-6)

    def ours() -> None:
        for indices in next(turns[0]):
            view.read_batch(indices, out=reused)

    def peer() -> None:
        for indices in next(turns[1]):
            for row, index in enumerate(indices.tolist()):
                target[row] = ram[index * TIME : (index + 1) * TIME]

    gc.disable()
    ours_s, peer_s = best_times(ours, peer, repeats=401)
    gc.enable()
    ratio = peer_s / ours_s
    report(f"random 256x64 windows, {kind}", f"numpy {np.__version__}", ratio, bar)
    assert ratio >= bar


def test_binning_beats_a_loop_of_histograms(best_times: Times, report: Report) -> None:
    rng = np.random.default_rng(2)
    n_units, seconds, rate = 500, 3600.0, 2.0
    times = np.sort(rng.uniform(0, seconds, int(n_units * seconds * rate)))
    units = rng.integers(0, n_units, len(times)).astype(np.int32)
    trains = [times[units == u] for u in range(n_units)]
    starts = np.round(rng.uniform(0, seconds - 2, 2), 3)

    def ours() -> np.ndarray:
        return count_events(times, units, starts, n_units=n_units, n_bins=100, width=0.02)

    def peer() -> list[list[np.ndarray]]:
        edges = np.round(starts[:, None] + np.arange(101) * 0.02, 9)
        return [[np.histogram(train, edge)[0] for train in trains] for edge in edges]

    np.testing.assert_array_equal(ours(), np.asarray(peer()).transpose(0, 2, 1))
    ours_s, peer_s = best_times(ours, peer, repeats=7)
    report(
        "2 s of 500 units in 20 ms bins", f"numpy.histogram {np.__version__}", peer_s / ours_s, 30
    )
    assert peer_s / ours_s >= 30


def test_the_streaming_normaliser_keeps_up_with_two_passes_in_memory(
    tmp_path: Path, one_recording: Make, best_times: Times, report: Report
) -> None:
    data = np.random.default_rng(3).standard_normal((int(RATE) * 1200, CHANNELS), np.float32) + 5
    store = one_recording(tmp_path / "store", data)

    def ours() -> Normalizer:
        return Normalizer.fit(store, split="all", allow_leak=True)

    def peer() -> tuple[np.ndarray, np.ndarray]:
        return data.mean(0, dtype=np.float64), data.std(0, dtype=np.float64)

    found = ours().statistics("r", "eeg")
    assert found is not None
    np.testing.assert_allclose(found, peer(), rtol=1e-6)
    ours_s, peer_s = best_times(ours, peer, repeats=7)
    report("mean and deviation, 64 channels", f"numpy {np.__version__}", peer_s / ours_s, 0.5)
    assert peer_s / ours_s >= 0.5


def resident() -> float:
    """Megabytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_a_store_of_many_recordings_opens_at_once(tmp_path: Path, report: Report) -> None:
    """No peer: the bars are a second and 50 MB for 10 000 recordings."""
    store = Store.create(tmp_path / "store")
    signal = Signal(np.zeros((2, 1), np.float32), rate=1.0)
    for i in range(9_999):
        store.files.folder(f"r{i}").mkdir()
    store.add(Recording("first", "s", "1", Species.HUMAN, {"eeg": signal}))
    before, start = resident(), time.perf_counter()
    opened = Store(type(store.files)(store.path), store.manifest)
    assert len(opened.recordings) == 10_000
    opened.recordings["first"]
    seconds, grown = time.perf_counter() - start, max(resident() - before, 0.1)
    report("open 10 000 recordings", "a second", 1.0 / seconds, 1.0)
    report("open 10 000 recordings: MB grown", "50 MB", 50 / grown, 1.0)
    assert seconds < 1.0
    assert grown < 50


def test_importing_takes_no_longer_than_that_of_scipy_signal(report: Report) -> None:
    taken: dict[str, list[float]] = {"neuros_data": [], "scipy.signal": []}
    for _ in range(7):
        for module, found in taken.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
            found.append(time.perf_counter() - start)
    ratio = min(taken["neuros_data"]) / min(taken["scipy.signal"])
    report("import neuros_data", f"import scipy.signal {version('scipy')}", ratio, 1.5)
    assert ratio <= 1.5
