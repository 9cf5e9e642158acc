"""OpenSignals HDF5."""

from pathlib import Path

import numpy as np
import pytest

from neuros_data.reading import read

h5py = pytest.importorskip("h5py")


def test_counts_of_each_device_are_kept(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 65_536, (50, 1)).astype(np.uint16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for address, sensor in (("00:01", "EMG"), ("00:02", b"EEGBIT")):
            group = file.create_group(address)
            group.attrs["sampling rate"] = 1000
            group.attrs["resolution"] = [16]
            group["raw/channel_1"] = raw
            group["raw/nSeq"] = raw
            group["raw/channel_1"].attrs["sensor"] = sensor
            group["digital/digital_1"] = raw // 65_000
    recording = read(tmp_path / "a.h5")
    np.testing.assert_array_equal(recording.modalities["emg"].data, raw)
    assert recording.modalities["eeg"].channels == ("00:02/channel_1",)
    assert recording.modalities["emg"].unit == "a.u."
    assert set(recording.behaviour) == {"00:01/digital_1", "00:02/digital_1"}
