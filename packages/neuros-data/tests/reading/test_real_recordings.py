"""The real recordings, taken as they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuros_data import Store
from neuros_data.check import check_store
from neuros_data.reading import read as read_strict

pytestmark = pytest.mark.recordings


def test_edf_of_64_channels_keeps_names_and_annotation(recordings: Path) -> None:
    eeg = read_strict(recordings / "eeg_edf" / "S001R02.edf")
    assert eeg.modalities["eeg"].data.shape == (9760, 64)
    assert eeg.modalities["eeg"].channels[0] == "Fc5."
    assert eeg.behaviour["annotations"].columns["label"].tolist() == ["T0"]


@pytest.mark.slow  # imports MNE
def test_gdf_duplicates_are_read_and_found(
    recordings: Path, tmp_path: Path, read: Callable[..., Any]
) -> None:
    store = Store.create(tmp_path / "store")
    for subject in ("subject03", "subject07"):
        path = recordings / "eeg_ssvep" / f"{subject}_record-2012.07.11-15.33.08.gdf"
        recording, told = read(path, subject=subject)
        assert "the unit in the header is doubtful" in told
        assert recording.modalities["eeg"].data.shape[1] == 8
        labels = recording.behaviour["annotations"].columns["label"]
        assert (labels == "32779").sum() == 32
        store.add(recording)
    assert any(w.kind == "duplicate" for w in check_store(store).warnings)


@pytest.mark.slow  # imports MNE
def test_brainvision_is_sorted_by_its_bids_types(
    recordings: Path, read: Callable[..., Any]
) -> None:
    (path,) = (recordings / "ecog_lfp_grip").glob("*.vhdr")
    recording, told = read(path)
    assert recording.modalities["ecog"].data.shape == (19_001, 6)
    assert recording.modalities["lfp"].data.shape == (19_001, 3)
    assert recording.behaviour["misc"].channels == ("MOV_RIGHT",)
    assert (recording.subject, recording.session) == ("testsub", "EphysMedOff")
    assert recording.provenance["task"] == "gripforce"
    assert len(recording.provenance["electrodes"]) == 9
    assert "doubtful" in told


@pytest.mark.slow  # imports pynwb
def test_nwb_with_an_empty_subject(recordings: Path, read: Callable[..., Any]) -> None:
    recording, told = read(recordings / "nwb_units" / "A8604-211122.nwb")
    events = recording.modalities["spike"]
    assert np.bincount(events.unit_ids).tolist() == [11_020, 4_690, 5_644]
    assert recording.behaviour["epochs"].columns["tags"].tolist() == ["wake"]
    assert recording.subject == "A8604-211122"
    assert "the file names no subject" in told


def test_opensignals_counts(recordings: Path) -> None:
    emg = read_strict(recordings / "emg_bursts" / "emg_bursts.h5").modalities["emg"]
    assert (emg.data.shape, emg.rate, emg.data.dtype.kind) == ((28_519, 1), 1000.0, "i")


def test_spikes_and_position_on_uneven_frames(recordings: Path, read: Callable[..., Any]) -> None:
    recording, told = read(recordings / "hippocampus_track" / "linear_track.npz", species="rat")
    events = recording.modalities["spike"]
    assert (events.n_units, len(events.times)) == (31, 28_829)
    assert events.table["unit_tetrode"].shape == (31,)
    position = recording.behaviour["position_xy"]
    assert position.rate is None
    assert position.data.dtype == np.int16
    assert "the largest gap is 0.1115 s" in told
    assert "1 samples have the time stamp of the one before" in told
    np.testing.assert_allclose(recording.duration, 1982.45, atol=0.1)


def test_one_trial_of_counts_and_kinematics(recordings: Path) -> None:
    # Its column `time_ms` counts in seconds; the rate that its README gives stands.
    recording = read_strict(recordings / "mc_maze_trial" / "trial_748.npz", rate=1000.0)
    spikes = recording.modalities["spike"]
    assert spikes.data.shape == (3236, 182)
    assert spikes.channels[0] == "unit_1011"
    assert recording.duration == 3.236
    assert set(recording.behaviour) == {"hand_pos", "hand_vel", "cursor_pos", "eye_pos"}


def test_rates_without_a_clock_ask_for_one(recordings: Path) -> None:
    path = recordings / "monkey_reach" / "mihi_setA.npz"
    with pytest.raises(ValueError, match="pass rate= in Hz"):
        read_strict(path)
    recording = read_strict(path, rate=5.0)
    assert recording.modalities["spike"].data.shape == (623, 174)
    assert recording.behaviour["velocity"].data.shape == (623, 2)


def test_trials_with_nan_are_kept_and_marked(recordings: Path, read: Callable[..., Any]) -> None:
    path = recordings / "monkey_lfp" / "umi_lfp_data.npz"
    with pytest.raises(ValueError, match="pass axes="):
        read(path)
    recording, told = read(path, axes="trial time")
    lfp = recording.modalities["lfp"]
    assert lfp.rate == 2000.0
    np.testing.assert_array_equal(lfp.valid, np.isfinite(lfp.data))
    assert 0 < (~lfp.valid).mean() < 0.05
    assert len(recording.behaviour["trial"]) == 410
    assert "410 trials of 0.8 s" in told


def test_worms_keep_uneven_times_and_an_absent_behaviour(
    recordings: Path, read: Callable[..., Any]
) -> None:
    pumping = {}
    for path in sorted((recordings / "worm_calcium").glob("*.npz")):
        recording, _ = read(path, species="worm")
        calcium = recording.modalities["calcium"]
        assert calcium.rate is None
        assert calcium.times[0] == 0.0
        assert recording.provenance["left_out"] == ["zscored", "raw"]
        valid = recording.behaviour["pumping"].valid
        pumping[recording.provenance["strain"]] = valid is None or bool(valid.any())
    assert pumping == {"SWF415": True, "SWF702": False}


def test_a_plain_hdf5_file_is_read_by_its_paths(recordings: Path, read: Callable[..., Any]) -> None:
    path = recordings / "worm_calcium" / "original_2022-07-26-38-data.h5"
    with pytest.raises(ValueError, match="pass modality= one of"):
        read(path)
    recording, _ = read(
        path, "calcium", data="gcamp/traces_array_F_F20", times="timing/timestamp_confocal"
    )
    arrays = np.load(recordings / "worm_calcium" / "2022-07-26-38.npz")
    np.testing.assert_allclose(
        recording.modalities["calcium"].data, arrays["dff"], rtol=1e-6, equal_nan=True
    )
    assert recording.behaviour["velocity"].data.shape == (800, 1)


def test_gestures_keep_repeated_rows_and_labels(
    recordings: Path, tmp_path: Path, read: Callable[..., Any]
) -> None:
    for path in sorted((recordings / "emg_gestures").glob("*.npz"))[:4]:
        recording, told = read(path, scale=1e-5, unit="V")
        arrays = np.load(path)
        emg = recording.modalities["emg"]
        np.testing.assert_allclose(emg.data, arrays["emg"] * 1e-5)
        assert emg.rate is None
        assert "the clock is irregular" in told
        np.testing.assert_array_equal(recording.behaviour["label"].data.ravel(), arrays["label"])


def test_resting_fmri_keeps_its_connectome(recordings: Path) -> None:
    for path in sorted((recordings / "fmri_rest").glob("*.npz")):
        rate = 1 / 0.72 if path.name.startswith("hcp") else 0.5
        recording = read_strict(path, axes="channel time", rate=rate)
        assert recording.modalities["fmri"].data.shape[1] == 94
        assert recording.provenance["sc"].shape == (94, 94)


def test_event_fmri_and_its_region_table(recordings: Path) -> None:
    recording = read_strict(recordings / "fmri_event" / "event_related.npz", rate=0.5)
    codes = recording.behaviour["events"].data
    assert np.bincount(codes.ravel())[1:].tolist() == [96] * 6
    table = read_strict(
        recordings / "fmri_event" / "fmri_timeseries.csv",
        "fmri",
        rate=1 / 1.89,
        behaviour=["WM", "Vent", "Brain"],
    )
    assert table.modalities["fmri"].data.shape == (250, 28)


def test_grasshopper_spikes_and_envelope(recordings: Path) -> None:
    recording = read_strict(recordings / "grasshopper" / "session1.npz", species="insect")
    assert len(recording.modalities["spike"].times) == 929
    assert recording.modalities["spike"].duration == 10.0
    assert recording.behaviour["stimulus"].rate == 20_000.0


def test_hdemg_is_in_volts_beside_its_discharges(recordings: Path) -> None:
    recording = read_strict(recordings / "hdemg_force" / "vastus_lateralis.npz")
    emg = recording.modalities["emg"]
    assert (emg.data.shape, emg.rate, emg.unit) == ((66_560, 64), 2048.0, "V")
    discharges = recording.behaviour["mu_spikes"].data.sum(axis=0)
    assert discharges.tolist() == [137, 154, 197, 293, 292]
