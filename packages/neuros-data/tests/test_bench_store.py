"""The speed that the command line reports."""

import pytest

from neuros_data import load_sample
from neuros_data._bench_store import bench_store


def test_every_modality_with_a_long_enough_recording_is_measured() -> None:
    found = {speed.modality: speed for speed in bench_store(load_sample(), window=1.0)}
    # A volume of fMRI takes two seconds.
    assert sorted(found) == ["ecog", "eeg", "emg", "lfp", "spike"]
    for speed in found.values():
        assert speed.windows_per_s > 0
        assert speed.ratio == pytest.approx(speed.windows_per_s / speed.copies_per_s)


def test_windows_longer_than_every_recording_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no recording has a window of 100000.0 s"):
        bench_store(load_sample(), window=1e5)
