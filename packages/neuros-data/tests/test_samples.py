"""The embedded recordings are what their sources say."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from neuros_core import RunManifest, Species
from neuros_data import copy_sample, load_sample
from neuros_data.check import check_store

PACK = load_sample().path
IDS = [
    "ecog_lfp_grip",
    "eeg_eyes_closed",
    "emg_bursts",
    "fmri_event",
    "fmri_rest_28",
    *(f"fmri_rest_NAP_{n:03d}" for n in (1, 2, 7, 9, 13)),
    "grasshopper_1",
    "grasshopper_2",
]


def test_the_pack_is_small_sound_and_says_where_it_comes_from() -> None:
    files = [p for p in PACK.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 4_000_000
    report = check_store(load_sample())
    assert report.ok, str(report)
    assert report.warnings == ()
    sources = (PACK / "SOURCES.md").read_text(encoding="utf-8")
    for name in load_sample().recordings:
        found = load_sample().recordings[name].provenance
        assert found["licence"] in {"BSD-3-Clause", "MIT", "ODC-By-1.0"}
        assert all(digest in sources for digest in found["members"].values())
    run = RunManifest.from_dict(json.loads((PACK / "manifest.json").read_text())["run"])
    assert len(run.config["wheels"]) == 4


def test_the_recordings_have_their_names_rates_and_shapes() -> None:
    store = load_sample()
    assert list(store.recordings) == sorted(IDS)
    shapes = {
        ("ecog_lfp_grip", "ecog"): ((19001, 6), 1000.0),
        ("ecog_lfp_grip", "lfp"): ((19001, 3), 1000.0),
        ("eeg_eyes_closed", "eeg"): ((9760, 64), 160.0),
        ("emg_bursts", "emg"): ((28519, 1), 1000.0),
        ("fmri_event", "fmri"): ((3360, 1), 0.5),
        ("fmri_rest_28", "fmri"): ((250, 28), 1 / 1.89),
        ("fmri_rest_NAP_013", "fmri"): ((355, 94), 0.5),
    }
    for (name, modality), (shape, rate) in shapes.items():
        signal = store.recordings[name].modalities[modality]
        assert (signal.data.shape, signal.rate) == (shape, rate)
    assert store.recordings["ecog_lfp_grip"].behaviour["grip"].data.shape == (19001, 1)
    assert store.recordings["fmri_rest_NAP_001"].provenance["connectome"].shape == (94, 94)
    assert store.recordings["grasshopper_1"].species is Species.INSECT


def test_the_receptor_fired_929_and_868_spikes_in_ten_seconds() -> None:
    for name, count in (("grasshopper_1", 929), ("grasshopper_2", 868)):
        recording = load_sample().recordings[name]
        assert recording.modalities["spike"].times.size == count
        assert recording.modalities["spike"].times[-1] < 10.0
        envelope = recording.behaviour["envelope"]
        assert (envelope.data.shape, envelope.rate) == ((10_000, 1), 1000.0)


def test_each_of_six_events_occurs_96_times() -> None:
    event = load_sample().recordings["fmri_event"].behaviour["event"]
    codes, counts = np.unique(event.columns["code"], return_counts=True)
    assert codes.tolist() == [1, 2, 3, 4, 5, 6]
    assert counts.tolist() == [96] * 6


def test_closed_eyes_show_alpha_at_ten_hertz() -> None:
    eeg = load_sample("eeg").recordings["eeg_eyes_closed"].modalities["eeg"]
    columns = [eeg.channels.index(name) for name in ("O1", "Oz", "O2")]
    x = eeg.data[:, columns].astype(np.float64)
    # Welch: 4 s Hann windows, half overlapping, 0.25 Hz apart.
    pieces = np.stack([x[i : i + 640] for i in range(0, len(x) - 639, 320)])
    pieces = (pieces - pieces.mean(1, keepdims=True)) * np.hanning(640)[:, None]
    power = (np.abs(np.fft.rfft(pieces, axis=1)) ** 2).mean((0, 2))
    freq = np.fft.rfftfreq(640, 1 / 160)
    band = (freq >= 7) & (freq <= 14)
    assert abs(freq[band][power[band].argmax()] - 10.0) <= 0.5
    assert 1e-6 < x.std() < 1e-3  # volts


def test_the_saved_splits_hold_and_their_windows_open() -> None:
    store = load_sample()
    assert store.splits == ("time", "time_fmri")
    fast = store.windows(
        split="train",
        using="time",
        window=1.0,
        bin=0.01,
        lag=0.05,
        behaviour=["envelope"],
        behaviour_rate=100.0,
        normalize=True,
    )
    slow = store.windows(split="test", using="time_fmri", window=60.0, stride=2.0)
    assert len(fast.recordings) == 5
    assert len(slow.recordings) == 7
    assert slow.read_batch([0])["fmri"].shape[1] == 30
    for name in store.splits:
        assert store.split(name).verify(strict=True).ok


def test_a_modality_selects_recordings() -> None:
    assert list(load_sample("spike").recordings) == ["grasshopper_1", "grasshopper_2"]
    with pytest.raises(ValueError, match="the embedded recordings hold no calcium"):
        load_sample("calcium")
    with pytest.raises(ValueError, match="not a valid Modality"):
        load_sample("sound")


def test_a_copy_is_a_store_of_its_own(tmp_path: Path) -> None:
    copy = copy_sample(tmp_path / "copy")
    assert check_store(copy).ok
    assert copy.content_hash == load_sample().content_hash
    assert (tmp_path / "copy/licences/nitime.txt").is_file()
    with pytest.raises(ValueError, match="needs an empty or absent folder"):
        copy_sample(tmp_path / "copy")


@pytest.mark.recordings
@pytest.mark.skipif("NEUROS_RECORDINGS" not in os.environ, reason="NEUROS_RECORDINGS is not set")
def test_the_pack_equals_the_original_files() -> None:
    root = Path(os.environ["NEUROS_RECORDINGS"])
    store = load_sample()
    folder = root / "ecog_lfp_grip"
    (path,) = folder.glob("*_ieeg.eeg")
    raw = np.frombuffer(path.read_bytes(), "<f4").reshape(-1, 10)
    recording = store.recordings["ecog_lfp_grip"]
    np.testing.assert_array_equal(recording.modalities["lfp"].data, raw[:, :3])
    np.testing.assert_array_equal(recording.modalities["ecog"].data, raw[:, 3:9])
    np.testing.assert_array_equal(recording.behaviour["grip"].data, raw[:, 9:])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest in recording.provenance["members"].values()
    spikes = np.load(root / "grasshopper" / "session1.npz")
    found = store.recordings["grasshopper_1"]
    np.testing.assert_array_equal(found.modalities["spike"].times, spikes["spike_times_us"] / 1e6)
    np.testing.assert_allclose(
        found.behaviour["envelope"].data[:, 0],
        spikes["stimulus"].reshape(-1, 20).mean(1),
        rtol=1e-6,
    )
    bold = np.load(root / "fmri_rest" / "gw_NAP_001.npz")
    signal = store.recordings["fmri_rest_NAP_001"].modalities["fmri"].data
    step = np.ptp(bold["bold"], axis=1) / 65_534
    # Half a step of 16 bits, and float32 on both sides.
    bound = 0.5 * step + 2 * np.spacing(np.abs(bold["bold"]).max(1))
    assert (np.abs(signal - bold["bold"].T) <= bound).all()


@pytest.mark.recordings
@pytest.mark.oracle
@pytest.mark.skipif("NEUROS_RECORDINGS" not in os.environ, reason="NEUROS_RECORDINGS is not set")
def test_the_eeg_equals_what_mne_reads() -> None:
    mne = pytest.importorskip("mne")
    path = Path(os.environ["NEUROS_RECORDINGS"]) / "eeg_edf" / "S001R02.edf"
    raw = mne.io.read_raw_edf(path, verbose="error")
    eeg = load_sample().recordings["eeg_eyes_closed"].modalities["eeg"]
    # float32 of volts against float64.
    np.testing.assert_allclose(eeg.data, raw.get_data().T, rtol=1e-6, atol=1e-12)
    names = [name.strip(".").upper() for name in raw.ch_names]
    assert [name.upper() for name in eeg.channels] == names
