"""Stores in other formats, read back by the readers of those formats."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuros_core import Events, Intervals, Recording, Signal, Species
from neuros_data import Quantization, Store, load_sample, make_split
from neuros_data.export import export_store


def tiny(data: np.ndarray, **changes: Any) -> Recording:
    options = {"rate": 100.0, "unit": "V", **changes}
    return Recording("r", "s-1", "1", Species.RAT, {"eeg": Signal(data, **options)})


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_npz_windows_put_together_are_the_recording(ramp_store: Store, tmp_path: Path) -> None:
    written = export_store(ramp_store, "npz", tmp_path / "out", window=0.5, behaviour=["speed"])
    assert [path.name for path in written] == ["ramp_lfp.npz", "ramp_spike.npz"]
    lfp = load(written[0])
    recording = ramp_store.recordings["ramp"]
    assert lfp["x"].dtype == np.float32
    np.testing.assert_array_equal(lfp["x"].reshape(-1, 2), recording.modalities["lfp"].data)
    np.testing.assert_allclose(lfp["times"].ravel(), np.arange(1000) / 100.0)
    assert lfp["channels"].tolist() == ["0", "1"]
    assert (lfp["rate"].item(), lfp["unit"].item()) == (100.0, "V")
    assert (lfp["subject"].item(), lfp["session"].item()) == ("s1", "1")
    assert json.loads(lfp["meta"].item())["provenance"] == {"source": "made"}
    # The speed is sampled at 200 Hz: sample k has the value k.
    np.testing.assert_array_equal(lfp["y"][..., 0].ravel(), np.arange(2000.0))
    np.testing.assert_allclose(lfp["y_times"].ravel(), (np.arange(2000) + 0.5) / 200.0)
    assert lfp["y_names"].tolist() == ["speed"]
    _, spike = export_store(
        ramp_store, "npz", tmp_path / "labels", window=0.5, behaviour=["trial.code"]
    )
    # Every second window of half a second holds a trial, with the codes 0, 1, 2, 0, ...
    codes = load(spike)["y"][..., 0]
    assert codes[0::2, 0].tolist() == [k % 3 for k in range(10)]
    assert np.isnan(codes[1::2]).all()


def test_spikes_come_as_counts_and_exactly(ramp_store: Store, tmp_path: Path) -> None:
    _, path = export_store(ramp_store, "npz", tmp_path / "out", window=1.0, bin_s=0.1)
    spike, events = load(path), ramp_store.recordings["ramp"].modalities["spike"]
    assert spike["x"].shape == (10, 10, 3)
    assert spike["x"].sum() == len(events.times)
    np.testing.assert_array_equal(spike["event_times"], events.times)
    np.testing.assert_array_equal(spike["event_units"], events.unit_ids)


def test_parts_of_a_split_are_written_apart(ramp_store: Store, tmp_path: Path) -> None:
    split = make_split(ramp_store, by="time", ratios=(0.6, 0.2, 0.2), window=0.5)
    split.save(ramp_store, "time")
    written = export_store(ramp_store, "npz", tmp_path / "out", window=0.5)
    names = [path.name for path in written]
    assert names == [f"ramp_{part}_{m}.npz" for part in split.parts for m in ("lfp", "spike")]
    for part in split.parts:
        ((start, stop),) = split.part(part)["ramp"]
        lfp = load(tmp_path / "out" / f"ramp_{part}_lfp.npz")
        assert start <= lfp["times"].min() <= lfp["times"].max() < stop
        spike = load(tmp_path / "out" / f"ramp_{part}_spike.npz")
        assert start <= spike["event_times"].min() <= spike["event_times"].max() < stop
        assert json.loads(spike["meta"].item())["part"] == part


def test_invalid_samples_are_nan_and_irregular_clocks_keep_their_times(
    make_store: Callable[..., Store], tmp_path: Path
) -> None:
    data = np.arange(20.0)[:, None].copy()
    data[3] = np.nan
    times = np.cumsum(np.where(np.arange(20) % 2, 0.05, 0.15))
    recording = Recording(
        "r", "s", "1", Species.RAT, {"calcium": Signal(data, times=times, channels=["a"])}
    )
    (path,) = export_store(make_store(recording), "npz", tmp_path / "out", window=0.5)
    found = load(path)
    assert np.isnan(found["rate"].item())
    there = np.isfinite(found["x"][..., 0])
    held = found["x"][..., 0][there].astype(int)
    np.testing.assert_allclose(found["times"][there], times[held], atol=1e-6)
    assert 3 not in held
    assert len(set(held.tolist())) >= 17


def test_a_recording_too_short_for_a_window_is_left_out(
    make_store: Callable[..., Store], ramp: Callable[..., Recording], tmp_path: Path
) -> None:
    store = make_store(ramp("long"), ramp("short", seconds=1.0, offset=5.0))
    written = export_store(store, "npz", tmp_path / "out", window=2.0)
    assert {path.name.split("_")[0] for path in written} == {"long"}
    with pytest.raises(ValueError, match=r"no window of 20.0 s fits in any of the recordings"):
        export_store(store, "npz", tmp_path / "none", window=20.0)


def test_zarr_holds_the_stored_arrays(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    store = load_sample().select(["eeg_eyes_closed", "grasshopper_1", "fmri_event"])
    written = export_store(store, "zarr", tmp_path / "out")
    assert [path.name for path in written] == list(store.recordings)
    root = zarr.open_group(str(tmp_path / "out"), mode="r")
    for name in store.recordings:
        meta = store.files.meta(name)
        assert root[name].attrs["subject"] == meta["subject"]
        for kind in ("modalities", "behaviour"):
            for part_name, part in meta[kind].items():
                group = root[f"{name}/{kind}/{part_name}"]
                for key, entry in part["arrays"].items():
                    stored = np.asarray(store.files.array(name, entry))
                    if stored.dtype.kind == "U":
                        assert group.attrs[key] == stored.tolist()
                        continue
                    assert group[key].dtype == stored.dtype
                    np.testing.assert_array_equal(group[key][...], stored)
    eeg = root["eeg_eyes_closed/modalities/eeg"]
    assert eeg.attrs["scale"] == store.files.meta("eeg_eyes_closed")["modalities"]["eeg"]["scale"]


def test_zarr_keeps_texts_and_empty_arrays(
    make_store: Callable[..., Store], tmp_path: Path
) -> None:
    zarr = pytest.importorskip("zarr")
    none = Events(np.zeros(0), np.zeros(0, int), 2, duration=1.0)
    side = Intervals(np.array([0.0]), np.array([1.0]), {"side": np.array(["left"])})
    recording = Recording("r", "s", "1", Species.RAT, {"spike": none}, {"trial": side})
    export_store(make_store(recording), "zarr", tmp_path / "out")
    root = zarr.open_group(str(tmp_path / "out"), mode="r")
    assert root["r/modalities/spike/times"].shape == (0,)
    assert ["left"] in root["r/behaviour/trial"].attrs.values()


def test_nwb_holds_signals_units_and_intervals(ramp_store: Store, tmp_path: Path) -> None:
    pynwb = pytest.importorskip("pynwb")
    (path,) = export_store(ramp_store, "nwb", tmp_path / "out")
    recording = ramp_store.recordings["ramp"]
    with pynwb.NWBHDF5IO(str(path), "r") as source:
        file = source.read()
        assert (file.identifier, file.subject.subject_id) == ("ramp", "s1")
        assert file.subject.species == "Rattus norvegicus"
        lfp = file.acquisition["lfp"]
        np.testing.assert_array_equal(lfp.data[:], recording.modalities["lfp"].data)
        assert (lfp.rate, lfp.unit) == (100.0, "V")
        spikes = recording.modalities["spike"]
        for k in range(3):
            expected = spikes.times[spikes.unit_ids == k]
            np.testing.assert_array_equal(file.units["spike_times"][k], expected)
        assert file.units["depth"][:].tolist() == [0.0, 1.0, 2.0]
        np.testing.assert_array_equal(file.units.obs_intervals_index[0], [[0.0, 10.0]])
        trials = file.intervals["trial"]
        np.testing.assert_array_equal(trials["start_time"][:], np.arange(10.0))
        np.testing.assert_array_equal(trials["code"][:], np.arange(10) % 3)
        speed = file.processing["behavior"]["speed"]
        np.testing.assert_array_equal(speed.data[:], np.arange(2000.0)[:, None])


def test_nwb_keeps_integers_with_their_conversion(
    make_store: Callable[..., Store], tmp_path: Path
) -> None:
    pynwb = pytest.importorskip("pynwb")
    counts = np.arange(-50, 50)[:, None]
    store = make_store(tiny(counts * 1e-6), quantize={"eeg": Quantization(1e-6)})
    (path,) = export_store(store, "nwb", tmp_path / "out")
    with pynwb.NWBHDF5IO(str(path), "r") as source:
        eeg = source.read().acquisition["eeg"]
        assert eeg.data.dtype == np.int16
        np.testing.assert_array_equal(eeg.data[:], counts)
        assert eeg.conversion == 1e-6


def test_bids_is_read_back_by_mne(tmp_path: Path) -> None:
    mne = pytest.importorskip("mne")
    store = load_sample().select(["eeg_eyes_closed", "ecog_lfp_grip", "fmri_rest_28"])
    written = export_store(store, "bids", tmp_path / "out")
    assert all(path.is_dir() for path in written)
    about = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert about["BIDSVersion"] == "1.10.0"
    headers = sorted((tmp_path / "out").rglob("*.vhdr"))
    assert len(headers) == 3
    for path in headers:
        raw = mne.io.read_raw_brainvision(path, preload=True, verbose="error")
        kind = "ieeg" if path.parent.name == "ieeg" else "eeg"
        name = "ecog_lfp_grip" if kind == "ieeg" else "eeg_eyes_closed"
        modality = (
            {1: "ecog", 2: "lfp"}[int(path.stem.split("run-")[1][0])] if kind == "ieeg" else "eeg"
        )
        signal = store.recordings[name].modalities[modality]
        assert raw.ch_names == list(signal.channels)
        assert raw.info["sfreq"] == signal.rate
        np.testing.assert_allclose(raw.get_data().T, signal.data, rtol=1e-6, atol=1e-12)
        table = path.with_name(path.stem.rsplit("_", 1)[0] + "_channels.tsv").read_text()
        assert table.splitlines()[1].split("\t")[0] == signal.channels[0]
    (regions,) = (tmp_path / "out").rglob("*_timeseries.tsv")
    read = np.genfromtxt(regions, delimiter="\t", skip_header=1)
    np.testing.assert_allclose(read, store.recordings["fmri_rest_28"].modalities["fmri"].data)
    assert "behaviour grip" in (tmp_path / "out" / "README").read_text()


def test_bids_events_are_the_intervals(make_store: Callable[..., Store], tmp_path: Path) -> None:
    mne = pytest.importorskip("mne")
    trials = Intervals(np.array([0.5, 0.2]), np.array([0.7, 0.3]), {"side": np.array(["L", "R"])})
    signal = Signal(np.zeros((100, 2)), rate=100.0, unit="V", channels=["a,b", "c"])
    spikes = Events(np.array([0.1]), np.array([0]), 1, duration=1.0)
    recording = Recording(
        "r", "s", "1", Species.HUMAN, {"eeg": signal, "spike": spikes}, {"trial": trials}
    )
    export_store(make_store(recording), "bids", tmp_path / "out")
    (header,) = (tmp_path / "out").rglob("*.vhdr")
    raw = mne.io.read_raw_brainvision(header, verbose="error")
    assert raw.ch_names == ["a,b", "c"]
    found = [(a["onset"], a["description"]) for a in raw.annotations if "trial" in a["description"]]
    assert found == [(0.2, "Comment/trial/side=R"), (0.5, "Comment/trial/side=L")]
    table = next((tmp_path / "out").rglob("*_events.tsv")).read_text().splitlines()
    assert table[1] == "0.200000\t0.100000\ttrial/side=R"
    assert "r: spike" in (tmp_path / "out" / "README").read_text()


def test_bad_channels_are_said_to_be_bad(make_store: Callable[..., Store], tmp_path: Path) -> None:
    data = np.zeros((10, 2))
    data[:, 1] = np.nan
    export_store(make_store(tiny(data, unit="a.u.")), "bids", tmp_path / "out")
    (table,) = (tmp_path / "out").rglob("*_channels.tsv")
    assert [line.split("\t")[-1] for line in table.read_text().splitlines()[1:]] == ["good", "bad"]
    assert (tmp_path / "out" / "sub-s1").is_dir()


def test_what_cannot_be_exported_is_refused(ramp_store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="to"):
        export_store(ramp_store, "mat", tmp_path / "out")
    with pytest.raises(ValueError, match="npz holds windows; pass window"):
        export_store(ramp_store, "npz", tmp_path / "out")
    with pytest.raises(ValueError, match="zarr holds whole recordings"):
        export_store(ramp_store, "zarr", tmp_path / "out", window=1.0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(ValueError, match="needs an empty or absent folder"):
        export_store(ramp_store, "bids", tmp_path / "full")
