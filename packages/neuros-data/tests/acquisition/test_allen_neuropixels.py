"""The Neuropixels archive: a bucket with two sessions, NWB 2 files in the layout it uses."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from neuros_core import Events, Intervals, Signal
from neuros_data import Store
from neuros_data.acquisition.allen_neuropixels import AllenNeuropixels, AllenNeuropixelsSettings
from neuros_data.acquisition.source import SessionInfo
from neuros_data.errors import NetworkError
from neuros_data.preprocessing import UnitQuality
from neuros_data.transfer import TransferSettings

PREFIX = "visual-coding-neuropixels/ecephys-cache/"
HEADER = (
    "id,date_of_acquisition,isi_experiment_id,published_at,specimen_id,session_type,age_in_days,"
    "sex,genotype,has_nwb"
)
ROW = "{},2018-10-26T12:59:18Z,718922441,2019-10-03T00:00:00Z,{},{},118.0,M,wt/wt,True"


def _text(group: h5py.Group, name: str, values: list[str]) -> None:
    group.create_dataset(name, data=values, dtype=h5py.string_dtype())


def _electrodes(file: h5py.File, ids: list[int], regions: list[str]) -> None:
    group = file.create_group("general/extracellular_ephys/electrodes")
    group["id"] = np.array(ids)
    _text(group, "location", regions)
    _text(group, "group_name", ["probeA", "probeA", "probeB"][: len(ids)])
    group["probe_vertical_position"] = np.arange(1, len(ids) + 1) * 20


def _write_session(path: Path, *, stimuli: bool = True, behaviour: bool = True) -> None:
    """Four units, of which the second and the third fail a test of quality."""
    with h5py.File(path, "w") as file:
        units = file.create_group("units")
        units["id"] = np.array([900, 901, 902, 903])
        units["spike_times"] = np.array([0.5, 1.5, 2.5, 0.1, 0.2, 7.0, 1.0])
        units["spike_times_index"] = np.array([3, 5, 6, 7])
        units["peak_channel_id"] = np.array([72, 70, 71, 70])
        units["presence_ratio"] = np.array([0.99, 0.5, 0.99, 0.95])
        units["amplitude_cutoff"] = np.array([0.01, 0.01, np.nan, 0.05])
        units["isi_violations"] = np.array([0.1, 0.1, 0.1, 0.4])
        units["amplitude"] = np.array([150.0, 60.0, 60.0, 90.0])
        _text(units, "quality", ["good"] * 4)
        _electrodes(file, [70, 72, 71], ["VISp", "LGd", "CA1"])
        if behaviour:
            running = file.create_group("processing/running/running_speed")
            running["data"] = np.array([0.0, 100.0, 50.0, 25.0])
            running["timestamps"] = np.array([0.0, 1.0, 2.5, 10.0])
            invalid = file.create_group("intervals/invalid_times")
            invalid["start_time"], invalid["stop_time"] = np.array([3.0]), np.array([4.0])
            _text(invalid, "tags", ["EcephysSession"])
        if stimuli:
            gratings = file.create_group("intervals/drifting_gratings_presentations")
            gratings["id"] = np.arange(2)
            gratings["start_time"], gratings["stop_time"] = np.array([4.0, 1.0]), np.array([5.0, 2])
            gratings["orientation"] = np.array([90.0, 45.0])
            _text(gratings, "stimulus_name", ["drifting_gratings"] * 2)
            gratings["timeseries"] = np.zeros(2)
            gratings["timeseries_index"] = np.arange(2)
            gratings.create_dataset("windows", data=[gratings.ref] * 2, dtype=h5py.ref_dtype)
            gratings["positions"] = np.zeros((2, 3))
            flashes = file.create_group("intervals/flashes_presentations")
            flashes["start_time"], flashes["stop_time"] = np.array([0.0]), np.array([0.25])
            _text(flashes, "stimulus_name", ["flashes"])


def _tone(t: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * 10 * t)


def _write_lfp(
    path: Path, *, ids: list[int], regions: list[str], rate: float, first: float
) -> None:
    name = path.stem
    with h5py.File(path, "w") as file:
        series = file.create_group(f"acquisition/{name}/{name}_data")
        times = first + np.arange(int(4 * rate)) / rate
        series["timestamps"] = times
        # 10 Hz passes; 260 Hz lies above the new Nyquist frequency.
        series["data"] = np.stack(
            [_tone(times), np.sin(2 * np.pi * 260 * times)][: len(ids)], axis=1
        ).astype(np.float32)
        _electrodes(file, ids, regions)


@pytest.fixture
def bucket(tmp_path: Path, fill_bucket: Callable[..., Any]) -> Any:
    """Two sessions with files, one of them with LFP, and one that is only in the table."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    _write_session(folder / "session_715.nwb")
    _write_session(folder / "session_716.nwb", stimuli=False, behaviour=False)
    _write_lfp(
        folder / "probe_1_lfp.nwb", ids=[70, 71], regions=["VISp", "CA1"], rate=1250.0, first=0.1
    )
    _write_lfp(folder / "probe_2_lfp.nwb", ids=[80], regions=["LGd"], rate=1249.97, first=0.0123)
    table = [HEADER, ROW.format(716, 42, "functional_connectivity")]
    table += [ROW.format(715, 41, "brain_observatory_1.1"), ROW.format(717, 43, "x")]
    objects = {
        f"{PREFIX}session_{n}/{name}": (folder / name).read_bytes()
        for n, name in [
            (716, "session_716.nwb"),
            (715, "session_715.nwb"),
            (715, "probe_1_lfp.nwb"),
            (715, "probe_2_lfp.nwb"),
        ]
    }
    objects[f"{PREFIX}session_715/session_715_analysis_metrics.csv"] = b"a,b\n"
    objects[f"{PREFIX}sessions.csv"] = "\n".join(table).encode()
    return fill_bucket(objects, 2)


def _source(bucket: Any, **settings: Any) -> AllenNeuropixels:
    return AllenNeuropixels(AllenNeuropixelsSettings(bucket=bucket.url, **settings))


def test_sessions_are_listed_by_id_when_they_have_a_file(
    bucket: Any, transfer: TransferSettings
) -> None:
    found = _source(bucket).list(transfer)
    assert [s.id for s in found] == ["ecephys_715", "ecephys_716"]
    assert [s.subject for s in found] == ["41", "42"]
    assert found[0].meta["session_type"] == "brain_observatory_1.1"
    # Five objects below the prefix, two a page: three pages and the table.
    assert len(bucket.asked) == 4


def test_lfp_files_are_fetched_only_when_asked_for(bucket: Any, transfer: TransferSettings) -> None:
    session = _source(bucket).list(transfer)[0]
    assert [f.path for f in _source(bucket).files(session)] == ["session_715.nwb"]
    with_lfp = _source(bucket, lfp=True).files(session)
    assert [f.path for f in with_lfp] == ["probe_1_lfp.nwb", "probe_2_lfp.nwb", "session_715.nwb"]
    assert all(f.size for f in with_lfp)


def test_units_that_pass_quality_control_keep_their_spikes_and_regions(
    bucket: Any, transfer: TransferSettings, fetch: Callable[..., Path]
) -> None:
    source = _source(bucket)
    session = source.list(transfer)[0]
    prepared = source.prepare(session, fetch(source, session), source.settings)
    spikes = prepared.recording.modalities["spike"]
    assert isinstance(spikes, Events)
    assert spikes.units == ("900", "903")
    assert spikes.times.tolist() == [0.5, 1.0, 1.5, 2.5]
    assert spikes.unit_ids.tolist() == [0, 1, 0, 0]
    assert spikes.table["region"].tolist() == ["LGd", "VISp"]
    assert spikes.table["probe"].tolist() == ["probeA", "probeA"]
    np.testing.assert_allclose(spikes.table["depth"], [40e-6, 20e-6])
    np.testing.assert_allclose(spikes.table["amplitude"], [150e-6, 90e-6])
    assert spikes.duration == 10.0
    assert "2 of 4 units pass quality control" in prepared.notes


def test_thresholds_are_settings(
    bucket: Any, transfer: TransferSettings, fetch: Callable[..., Path]
) -> None:
    source = _source(bucket, units=UnitQuality(presence_ratio=0.0), quality=None)
    session = source.list(transfer)[0]
    prepared = source.prepare(session, fetch(source, session), source.settings)
    # The third unit's amplitude cut-off could not be computed: no threshold lets it in.
    assert prepared.recording.modalities["spike"].units == ("900", "901", "903")


def test_stimuli_of_all_kinds_are_one_table_in_order_of_time(
    bucket: Any, transfer: TransferSettings, fetch: Callable[..., Path]
) -> None:
    source = _source(bucket)
    session = source.list(transfer)[0]
    prepared = source.prepare(session, fetch(source, session), source.settings)
    stimuli = prepared.recording.behaviour["stimuli"]
    assert isinstance(stimuli, Intervals)
    assert stimuli.start.tolist() == [0.0, 1.0, 4.0]
    assert stimuli.columns["stimulus_name"].tolist() == [
        "flashes",
        "drifting_gratings",
        "drifting_gratings",
    ]
    np.testing.assert_array_equal(stimuli.columns["orientation"], [np.nan, 45.0, 90.0])
    assert set(stimuli.columns) == {"orientation", "stimulus_name"}
    invalid = prepared.recording.behaviour["invalid_times"]
    assert isinstance(invalid, Intervals)
    assert (invalid.start[0], invalid.end[0]) == (3.0, 4.0)


def test_running_speed_is_in_metres_per_second_on_its_own_clock(
    bucket: Any, transfer: TransferSettings, fetch: Callable[..., Path]
) -> None:
    source = _source(bucket)
    session = source.list(transfer)[0]
    prepared = source.prepare(session, fetch(source, session), source.settings)
    running = prepared.recording.behaviour["running_speed"]
    assert isinstance(running, Signal)
    assert running.unit == "m/s"
    np.testing.assert_allclose(running.data[:, 0], [0.0, 1.0, 0.5, 0.25])
    assert running.times is not None
    assert running.times.tolist() == [0.0, 1.0, 2.5, 10.0]
    assert any("largest gap is 7.5 s at 2.5 s" in note for note in prepared.notes)


def test_a_session_without_behaviour_is_kept_and_says_so(
    bucket: Any, transfer: TransferSettings, fetch: Callable[..., Path]
) -> None:
    source = _source(bucket, lfp=True)
    session = source.list(transfer)[1]
    prepared = source.prepare(session, fetch(source, session), source.settings)
    assert not prepared.recording.behaviour
    assert list(prepared.recording.modalities) == ["spike"]
    assert {"stimuli absent", "running_speed absent", "no LFP files"} <= set(prepared.notes)


def test_lfp_of_two_probes_shares_one_clock(
    bucket: Any, transfer: TransferSettings, fetch: Callable[..., Path]
) -> None:
    source = _source(bucket, lfp=True)
    session = source.list(transfer)[0]
    prepared = source.prepare(session, fetch(source, session), source.settings)
    lfp = prepared.recording.modalities["lfp"]
    assert isinstance(lfp, Signal)
    assert (lfp.rate, lfp.start, lfp.unit) == (500.0, 0.1, "V")
    assert lfp.channels == ("70", "71", "80")
    inner = slice(50, -50)  # away from the ends, where the filter sees fewer samples
    t = (lfp.start + np.arange(len(lfp.data)) / 500.0)[inner]
    for channel in (0, 2):
        # A gain error of 0.5 % would show as 5e-3; a shift by half a sample of 500 Hz as 6e-2.
        np.testing.assert_allclose(lfp.data[inner, channel], _tone(t), atol=1e-3)
    # -60 dB is 1e-3 of the tone's amplitude.
    assert np.abs(lfp.data[inner, 1]).max() < 1e-3
    assert prepared.recording.provenance["lfp_region"].tolist() == ["VISp", "CA1", "LGd"]
    assert prepared.support == pytest.approx(0.044, abs=0.002)


def test_what_is_prepared_goes_into_a_store(
    bucket: Any,
    transfer: TransferSettings,
    fetch: Callable[..., Path],
    make_store: Callable[..., Store],
) -> None:
    source = _source(bucket, lfp=True)
    session = source.list(transfer)[0]
    store = make_store(source.prepare(session, fetch(source, session), source.settings).recording)
    read = store.recordings["ecephys_715"]
    assert read.subject == "41"
    assert read.provenance["licence"] == source.licence
    assert read.modalities["spike"].table["region"].tolist() == ["LGd", "VISp"]


@pytest.mark.parametrize("name", ["session_715.nwb", "probe_1_lfp.nwb"])
def test_a_damaged_file_is_named(
    name: str, bucket: Any, transfer: TransferSettings, fetch: Callable[..., Path]
) -> None:
    source = _source(bucket, lfp=True)
    session = source.list(transfer)[0]
    folder = fetch(source, session)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"{name} cannot be read as an NWB file"):
        source.prepare(session, folder, source.settings)


def test_a_file_of_another_layout_is_named(
    bucket: Any, transfer: TransferSettings, fetch: Callable[..., Path]
) -> None:
    source = _source(bucket)
    session = source.list(transfer)[0]
    folder = fetch(source, session)
    with h5py.File(folder / "session_715.nwb", "w") as file:
        file["something"] = 1.0
    with pytest.raises(ValueError, match=r"session_715\.nwb cannot be read .*units"):
        source.prepare(session, folder, source.settings)


def test_a_bucket_that_answers_something_else_is_told(
    archive: Any, transfer: TransferSettings
) -> None:
    archive.answers[f"/{PREFIX}sessions.csv"] = b"name,age\nx,1\n"
    archive.answers["/"] = b"<Error/>"
    with pytest.raises(NetworkError, match="is not a table of sessions"):
        _source(archive).list(transfer)
    archive.answers[f"/{PREFIX}sessions.csv"] = HEADER.encode()
    with pytest.raises(NetworkError, match="'Error', not with a listing"):
        _source(archive).list(transfer)
    archive.answers["/"] = b"not XML"
    with pytest.raises(NetworkError, match="did not answer with a listing"):
        _source(archive).list(transfer)
    with pytest.raises(NetworkError, match="404"):
        AllenNeuropixels(AllenNeuropixelsSettings(bucket=archive.url, prefix="elsewhere/")).list(
            transfer
        )


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"lfp_rate needs Hz in \(0, 1250\], got 2500"):
        AllenNeuropixelsSettings(lfp_rate=2500)


# Slow because it imports pynwb.
@pytest.mark.slow
def test_a_file_that_pynwb_wrote_is_read(tmp_path: Path) -> None:
    nwb = pytest.importorskip("pynwb")
    file = nwb.NWBFile(
        session_description="made here",
        identifier="715",
        session_start_time=datetime(2018, 10, 26, tzinfo=UTC),
    )
    group = file.create_electrode_group(
        name="probeA",
        description="probe",
        location="",
        device=file.create_device(name="probeA", description="Neuropixels"),
    )
    file.add_electrode_column(name="probe_vertical_position", description="um")
    for number, region in ((70, "VISp"), (72, "LGd")):
        file.add_electrode(
            id=number, location=region, group=group, probe_vertical_position=20 * (number - 69)
        )
    metrics = {"presence_ratio": 0.99, "amplitude_cutoff": 0.01, "isi_violations": 0.1}
    for name in ("peak_channel_id", "quality", "amplitude", *metrics):
        file.add_unit_column(name=name, description=name)
    for number, channel, quality in ((900, 72, "good"), (901, 70, "noise"), (902, 70, "good")):
        file.add_unit(
            id=number,
            spike_times=[0.25, number / 1000],
            peak_channel_id=channel,
            quality=quality,
            amplitude=100.0,
            **metrics,
        )
    running = file.create_processing_module(name="running", description="running speed data")
    running.add(
        nwb.TimeSeries(
            name="running_speed",
            data=np.full(10, 5.0),
            timestamps=np.arange(10) / 60.0,
            unit="cm/s",
        )
    )
    flashes = nwb.epoch.TimeIntervals(name="flashes_presentations", description="flashes")
    flashes.add_column(name="stimulus_name", description="name")
    flashes.add_column(name="color", description="-1 or 1")
    for i in range(3):
        flashes.add_row(
            start_time=2.0 * i, stop_time=2.0 * i + 0.25, stimulus_name="flashes", color=(-1.0) ** i
        )
    file.add_time_intervals(flashes)
    file.add_invalid_time_interval(start_time=1.0, stop_time=1.5, tags=["probeA"])
    with nwb.NWBHDF5IO(path=tmp_path / "session_715.nwb", mode="w") as io:
        io.write(file)
    session = SessionInfo("ecephys_715", "41", "715", {"keys": "x/session_715.nwb", "bytes": "1"})
    recording = AllenNeuropixels().prepare(session, tmp_path, AllenNeuropixelsSettings()).recording
    spikes = recording.modalities["spike"]
    assert isinstance(spikes, Events)
    assert spikes.units == ("900", "902")
    assert spikes.times.tolist() == [0.25, 0.25, 0.9, 0.902]
    assert spikes.table["region"].tolist() == ["LGd", "VISp"]
    np.testing.assert_allclose(spikes.table["depth"], [60e-6, 20e-6])
    stimuli = recording.behaviour["stimuli"]
    assert isinstance(stimuli, Intervals)
    assert stimuli.start.tolist() == [0.0, 2.0, 4.0]
    assert stimuli.columns["color"].tolist() == [1.0, -1.0, 1.0]
    assert set(stimuli.columns) == {"color", "stimulus_name"}
    running_speed = recording.behaviour["running_speed"]
    assert isinstance(running_speed, Signal)
    assert running_speed.rate == pytest.approx(60.0)
    np.testing.assert_allclose(running_speed.data, 0.05)
    assert len(recording.behaviour["invalid_times"]) == 1
