"""EDF into a store against MNE-Python's reading and a NumPy file."""

import gc
import itertools
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuros_data import Store
from neuros_data.reading import Identity, read_exact

CHANNELS, RATE, SECONDS, BAR = 64, 512, 120, 1.0


def edf(path: Path) -> Path:
    edfio = pytest.importorskip("edfio")
    rng = np.random.default_rng(0)
    signals = [
        edfio.EdfSignal(
            rng.normal(size=RATE * SECONDS) * 20, RATE, label=f"EEG {i}", physical_dimension="uV"
        )
        for i in range(CHANNELS)
    ]
    edfio.Edf(signals).write(path)
    return path


def least(sides: tuple[Callable[[], Any], ...], repeats: int) -> list[float]:
    """Least seconds of each side; the sides take turns, so that a busy machine hits both."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, found in zip(sides, taken, strict=True):
            start = time.perf_counter()
            side()
            found.append(time.perf_counter() - start)
    return [min(found) for found in taken]


def test_edf_reaches_the_store_as_fast_as_mne_reaches_a_numpy_file(tmp_path: Path) -> None:
    mne = pytest.importorskip("mne")
    path = edf(tmp_path / "a.edf")
    numbers = itertools.count()

    store = Store.create(tmp_path / "store")

    def ours() -> None:
        found = read_exact(path, identity=Identity(recording_id=f"r{next(numbers)}"))
        store.add(found.recording, quantize=found.quantize)

    def reading() -> None:
        read_exact(path)

    def peer() -> None:
        raw = mne.io.read_raw_edf(path, preload=True, verbose="error")
        np.save(tmp_path / f"peer{next(numbers)}.npy", raw.get_data())

    def peer_reading() -> None:
        mne.io.read_raw_edf(path, preload=True, verbose="error").get_data()

    what = f"{CHANNELS} ch x {SECONDS} s at {RATE} Hz | mne {version('mne')}"
    gc.disable()
    ours_s, peer_s, reading_s, peer_reading_s = least(
        (ours, peer, reading, peer_reading), repeats=11
    )
    gc.enable()
    print(f"BENCH | EDF read, {what} | ratio {peer_reading_s / reading_s:.2f} | bar {BAR}")
    ratio = peer_s / ours_s
    print(f"BENCH | EDF to store, {what} | ratio {ratio:.2f} | bar {BAR}")
    assert peer_reading_s / reading_s >= BAR
    assert ratio >= BAR
