"""Small stores that several test files read."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuros_core import Events, Intervals, Recording, Signal, Species
from neuros_data import Store


def _ramp(
    name: str = "ramp",
    *,
    subject: str = "s1",
    session: str = "1",
    seconds: float = 10.0,
    rate: float = 100.0,
    channels: int = 2,
    offset: float = 0.0,
    source: str = "made",
    behaviour: bool = True,
) -> Recording:
    """Sample k of channel c is k + 0.25 c + offset: a value tells where it comes from."""
    n = round(seconds * rate)
    data = np.arange(n)[:, None] + 0.25 * np.arange(channels) + offset
    spikes = np.sort(np.random.default_rng([n, int(4 * offset)]).uniform(0, seconds, 200).round(4))
    labels = {"code": np.arange(10) % 3}
    starts = np.arange(10) * seconds / 10
    return Recording(
        name,
        subject,
        session,
        Species.RAT,
        {
            "lfp": Signal(data, rate=rate, unit="V"),
            "spike": Events(
                spikes, np.arange(200) % 3, 3, duration=seconds, table={"depth": np.arange(3.0)}
            ),
        },
        {
            "speed": Signal(np.arange(n * 2.0)[:, None], rate=2 * rate),
            "trial": Intervals(starts, starts + seconds / 20, labels),
        }
        if behaviour
        else {},
        {"source": source},
    )


@pytest.fixture
def ramp() -> Callable[..., Recording]:
    """Make a recording whose samples tell where they come from."""
    return _ramp


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Store]:
    """Build a store from recordings."""

    def build(*recordings: Recording, **options: Any) -> Store:
        store = Store.create(tmp_path / f"store{len(list(tmp_path.iterdir()))}")
        for recording in recordings:
            store.add(recording, **options)
        return store

    return build


@pytest.fixture
def ramp_store(make_store: Callable[..., Store]) -> Store:
    return make_store(_ramp())


@pytest.fixture
def recordings() -> Path:
    """Folder of the real recordings, one subfolder a set."""
    folder = os.environ.get("NEUROS_RECORDINGS")
    if not folder:
        pytest.skip("NEUROS_RECORDINGS does not name the folder of the real recordings")
    return Path(folder)
