"""What the benchmarks here share: a store of one recording, sides that take turns, the row."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuros_core import Recording, Signal, Species
from neuros_data import Quantization, Store

RATE = 256.0
Report = Callable[[str, str, float, float], None]


@pytest.fixture
def report() -> Report:
    """Print the row of the table."""

    def write(what: str, peer: str, ratio: float, bar: float) -> None:
        print(f"BENCH | {what} | {peer} | ratio {ratio:.2f} | bar {bar}")

    return write


@pytest.fixture
def best_times() -> Callable[..., list[float]]:
    """Least seconds of each side; the sides take turns, so that a busy machine hits both."""

    def measure(*sides: Callable[[], Any], repeats: int) -> list[float]:
        taken: list[list[float]] = [[] for _ in sides]
        for _ in range(repeats + 2):
            for side, found in zip(sides, taken, strict=True):
                start = time.perf_counter()
                side()
                found.append(time.perf_counter() - start)
        return [min(found[2:]) for found in taken]

    return measure


@pytest.fixture(scope="session")
def one_recording() -> Callable[..., Store]:
    """Make a store of one EEG recording at 256 Hz."""

    def make(
        folder: Path, data: np.ndarray, quantize: dict[str, Quantization] | None = None
    ) -> Store:
        store = Store.create(folder)
        signal = Signal(data, rate=RATE, unit="V")
        store.add(Recording("r", "s", "1", Species.HUMAN, {"eeg": signal}), quantize=quantize)
        return store

    return make
