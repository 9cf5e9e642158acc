"""The two-photon archive: a bucket with its table, and NWB 1 files in the layout it uses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from neuros_core import Intervals, Signal
from neuros_data import Store
from neuros_data.acquisition.allen_2p import Allen2P, Allen2PSettings
from neuros_data.errors import NetworkError
from neuros_data.transfer import TransferSettings

PREFIX = "visual-coding-2p/"
PIPELINE = "processing/brain_observatory_pipeline"
RATE = 30.1
FRAMES = 3000
TIMES = 2.0 + np.arange(FRAMES) / RATE


def _experiment(number: int, donor: str) -> dict[str, Any]:
    """An entry of `ophys_experiments.json`."""
    return {
        "id": number,
        "experiment_container_id": 511498742,
        "stimulus_name": "three_session_A",
        "imaging_depth": 175,
        "targeted_structure": {"acronym": "VISp"},
        "specimen": {"name": "Cux2-CreERT2", "donor": {"external_donor_name": donor}},
    }


def _traces() -> np.ndarray:
    """Two cells on a level of 100, with a jump at 40 s; the neuropil adds 0.7 x 50."""
    f = np.full((2, FRAMES), 100.0)
    f[0, TIMES > 42] += 50
    return f


def _series(file: h5py.File, where: str, data: Any, times: Any) -> None:
    group = file.create_group(f"{PIPELINE}/{where}")
    group["data"], group["timestamps"] = data, times


def _write(
    path: Path,
    *,
    published: bool = True,
    demixed: bool = True,
    eye: bool = True,
    stimuli: bool = True,
) -> None:
    with h5py.File(path, "w") as file:
        if published:
            _series(file, "DfOverF/imaging_plane_1", _traces() / 100 - 1, TIMES)
        raw, around = _traces() + 35.0, np.full((2, FRAMES), 50.0)
        _series(file, "Fluorescence/imaging_plane_1", raw, TIMES)
        if demixed:
            _series(file, "Fluorescence/imaging_plane_1_demixed_signal", raw, TIMES)
            _series(file, "Fluorescence/imaging_plane_1_neuropil_response", around, TIMES)
        else:
            file[f"{PIPELINE}/Fluorescence/imaging_plane_1/neuropil_traces"] = around
        file[f"{PIPELINE}/ImageSegmentation/cell_specimen_ids"] = np.array([517399188, 517397340])
        running = np.linspace(0, 100, FRAMES)
        running[:3] = np.nan
        _series(file, "BehavioralTimeSeries/running_speed", running, TIMES)
        if eye:
            gaze = np.full((FRAMES, 2), 180.0)
            _series(file, "EyeTracking/pupil_location_spherical", gaze, TIMES)
            _series(file, "PupilTracking/pupil_size", np.arange(FRAMES), TIMES)
        shown = file.create_group("stimulus/presentation")
        gratings = shown.create_group("drifting_gratings_stimulus")
        gratings["data"] = np.array([[2.0, 90.0, 0.0], [1.0, 45.0, 0.0]])
        gratings["features"] = np.array([b"temporal_frequency", b"orientation", b"blank_sweep"])
        gratings["frame_duration"] = np.array([[100.0, 160.0], [200.0, 260.0]])
        movie = shown.create_group("natural_movie_one_stimulus")
        movie["data"], movie["frame_duration"] = np.array([0, 1]), np.array([[10, 11], [11, 12]])
        rest = shown.create_group("spontaneous_stimulus")
        rest["data"] = np.array([1, -1])
        rest["frame_duration"] = np.array([[500, 500], [2999, 3000]])
        if not stimuli:
            del file["stimulus"]
        file["general/session_type"] = b"three_session_A"
        file["general/optophysiology/imaging_plane_1/location"] = "VISp"
        file["general/subject/sex"] = np.array([b"male"])


@pytest.fixture
def bucket(tmp_path: Path, fill_bucket: Callable[..., Any]) -> Callable[..., Any]:
    """A bucket with one whole session, one listed only in the bucket, one only in the table."""

    def fill(**options: Any) -> Any:
        path = tmp_path / "one.nwb"
        _write(path, **options)
        table = [_experiment(n, f"22242{n % 10}") for n in (503, 501, 502)]
        return fill_bucket(
            {
                f"{PREFIX}ophys_experiments.json": json.dumps(table).encode(),
                f"{PREFIX}ophys_experiment_data/503.nwb": path.read_bytes(),
                f"{PREFIX}ophys_experiment_data/501.nwb": path.read_bytes(),
                f"{PREFIX}ophys_experiment_data/499.nwb": b"",
                f"{PREFIX}ophys_experiment_data/notes.txt": b"",
                f"{PREFIX}ophys_movies/ophys_experiment_501.h5": b"",
            },
            1,
        )

    return fill


def _source(bucket: Any, **settings: Any) -> Allen2P:
    return Allen2P(Allen2PSettings(bucket=bucket.url, **settings))


@pytest.fixture
def prepare(
    bucket: Callable[..., Any], transfer: TransferSettings, fetch: Callable[..., Path]
) -> Callable[..., Any]:
    """Download and prepare the first session."""

    def run(settings: dict[str, Any] | None = None, **options: Any) -> Any:
        source = _source(bucket(**options), **(settings or {}))
        session = source.list(transfer)[0]
        return source.prepare(session, fetch(source, session), source.settings)

    return run


def test_sessions_that_have_a_file_are_listed_by_id(
    bucket: Callable[..., Any], transfer: TransferSettings
) -> None:
    source = _source(bucket())
    found = source.list(transfer)
    assert [s.id for s in found] == ["ophys_501", "ophys_503"]
    assert [s.subject for s in found] == ["222421", "222423"]
    assert found[0].meta["container"] == 511498742
    [file] = source.files(found[0])
    assert file.path == "501.nwb"
    assert file.size == found[0].meta["bytes"]


def test_published_traces_are_kept_at_their_rate(prepare: Callable[..., Any]) -> None:
    prepared = prepare()
    calcium = prepared.recording.modalities["calcium"]
    assert isinstance(calcium, Signal)
    assert calcium.channels == ("517399188", "517397340")
    assert calcium.rate == pytest.approx(RATE)
    assert calcium.start == 2.0
    np.testing.assert_allclose(calcium.data, _traces().T / 100 - 1)
    assert prepared.support == 0.0
    assert prepared.recording.provenance["targeted_structure"] == "VISp"
    assert prepared.recording.provenance["sex"] == "male"


@pytest.mark.parametrize("options", [{"published": False}, {"published": False, "demixed": False}])
def test_traces_without_published_dff_are_computed(
    options: dict[str, bool], prepare: Callable[..., Any]
) -> None:
    prepared = prepare(**options)
    calcium = prepared.recording.modalities["calcium"]
    assert isinstance(calcium, Signal)
    assert calcium.rate == 30.0
    assert "dF/F computed from the fluorescence" in prepared.notes
    t = calcium.start + np.arange(len(calcium.data)) / 30.0
    # Without the neuropil the level is 100 and the baseline too: the jump is dF/F = 0.5.
    after = (t > 45) & (t < 60)
    np.testing.assert_allclose(calcium.data[after, 0], 0.5, atol=1e-3)
    before = (t > 10) & (t < 41)
    np.testing.assert_allclose(calcium.data[before], 0.0, atol=1e-3)
    assert prepared.support >= 60.0


def test_computing_dff_can_be_asked_for(prepare: Callable[..., Any]) -> None:
    assert prepare(settings={"published": False}).recording.modalities["calcium"].rate == 30.0


def test_stimuli_are_one_table_in_seconds(prepare: Callable[..., Any]) -> None:
    stimuli = prepare().recording.behaviour["stimuli"]
    assert isinstance(stimuli, Intervals)
    assert stimuli.columns["stimulus"].tolist() == [
        "natural_movie_one",
        "natural_movie_one",
        "drifting_gratings",
        "drifting_gratings",
        "spontaneous",
    ]
    np.testing.assert_allclose(stimuli.start, TIMES[[10, 11, 100, 200, 500]])
    # A stimulus that ends with the last frame ends at its time.
    np.testing.assert_allclose(stimuli.end, TIMES[[11, 12, 160, 260, 2999]])
    nan = np.nan
    np.testing.assert_array_equal(stimuli.columns["orientation"], [nan, nan, 90.0, 45.0, nan])
    np.testing.assert_array_equal(stimuli.columns["frame"], [0.0, 1.0, nan, nan, nan])


def test_running_and_pupil_are_in_si_units(prepare: Callable[..., Any]) -> None:
    behaviour = prepare().recording.behaviour
    running = behaviour["running_speed"]
    assert isinstance(running, Signal)
    assert (running.unit, float(running.data[-1, 0])) == ("m/s", pytest.approx(1.0))
    # What was not measured stays NaN.
    assert np.isnan(running.data[:3]).all()
    gaze = behaviour["pupil_position"]
    assert isinstance(gaze, Signal)
    assert (gaze.unit, gaze.channels) == ("rad", ("azimuth", "altitude"))
    np.testing.assert_allclose(gaze.data, np.pi)
    assert behaviour["pupil_size"].data[-1, 0] == FRAMES - 1


def test_a_session_without_stimuli_and_eye_tracking_is_kept_and_says_so(
    prepare: Callable[..., Any],
) -> None:
    prepared = prepare(eye=False, stimuli=False)
    assert set(prepared.recording.behaviour) == {"running_speed"}
    assert {"pupil_position absent", "pupil_size absent", "stimuli absent"} <= set(prepared.notes)


def test_what_is_prepared_goes_into_a_store(
    prepare: Callable[..., Any], make_store: Callable[..., Store]
) -> None:
    store = make_store(prepare().recording)
    read = store.recordings["ophys_501"]
    assert read.provenance["container"] == 511498742
    valid = read.behaviour["running_speed"].valid
    assert valid is not None
    assert valid.sum() == FRAMES - 3


def test_a_damaged_file_is_named(
    bucket: Callable[..., Any], transfer: TransferSettings, fetch: Callable[..., Path]
) -> None:
    source = _source(bucket())
    session = source.list(transfer)[0]
    folder = fetch(source, session)
    path = folder / "501.nwb"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"501\.nwb cannot be read as an NWB file"):
        source.prepare(session, folder, source.settings)
    with h5py.File(path, "w") as file:
        file["other"] = 1
    with pytest.raises(ValueError, match=r"501\.nwb cannot be read .*component not found"):
        source.prepare(session, folder, source.settings)


@pytest.mark.parametrize("table", [b"<html>", b'[{"id": 501}]', b'{"id": 501}'])
def test_a_table_that_is_not_one_is_told(
    table: bytes, bucket: Callable[..., Any], transfer: TransferSettings
) -> None:
    server = bucket()
    server.answers[f"/{PREFIX}ophys_experiments.json"] = table
    with pytest.raises(NetworkError, match="is not a table of experiments"):
        _source(server).list(transfer)


def test_an_irregular_clock_is_made_regular_and_its_gap_is_not_filled(
    bucket: Callable[..., Any], transfer: TransferSettings, fetch: Callable[..., Path]
) -> None:
    source = _source(bucket(published=False))
    session = source.list(transfer)[0]
    folder = fetch(source, session)
    with h5py.File(folder / "501.nwb", "r+") as file:
        # The microscope stops for five seconds.
        for where in ("imaging_plane_1", "imaging_plane_1_demixed_signal"):
            file[f"{PIPELINE}/Fluorescence/{where}/timestamps"][1500:] += 5.0
    prepared = source.prepare(session, folder, source.settings)
    calcium = prepared.recording.modalities["calcium"]
    assert isinstance(calcium, Signal)
    assert calcium.valid is not None
    t = calcium.start + np.arange(len(calcium.data)) / 30.0
    stopped = (t > TIMES[1499] + 0.1) & (t < TIMES[1500] + 4.9)
    assert not calcium.valid[stopped].any()
    assert calcium.valid[~((t > TIMES[1499] - 0.1) & (t < TIMES[1500] + 5.1))].all()
    assert any("largest gap is 5.0" in note for note in prepared.notes)


def test_traces_that_do_not_fit_their_times_are_refused(
    bucket: Callable[..., Any], transfer: TransferSettings, fetch: Callable[..., Path]
) -> None:
    source = _source(bucket())
    session = source.list(transfer)[0]
    folder = fetch(source, session)
    with h5py.File(folder / "501.nwb", "r+") as file:
        for where in ("DfOverF/imaging_plane_1", "Fluorescence/imaging_plane_1"):
            del file[f"{PIPELINE}/{where}/timestamps"]
            file[f"{PIPELINE}/{where}/timestamps"] = TIMES[:10]
    with pytest.raises(ValueError, match=r"501\.nwb cannot .*no usable traces: .*3000 samples"):
        source.prepare(session, folder, source.settings)


def test_the_rate_is_positive() -> None:
    with pytest.raises(ValueError, match="rate needs a positive number of Hz, got 0"):
        Allen2PSettings(rate=0)
