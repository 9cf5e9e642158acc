"""NWB 2, written by pynwb."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuros_data import Store
from neuros_data.reading import Options, read, read_exact

pynwb = pytest.importorskip("pynwb")
h5py = pytest.importorskip("h5py")
# Only about how the tests write their files.
pytestmark = pytest.mark.filterwarnings("ignore:.*positional arguments.*:FutureWarning")

RAW = np.random.default_rng(0).integers(-1000, 1000, (200, 3)).astype(np.int16)
START = dt.datetime(2024, 1, 2, tzinfo=dt.UTC)


def new_file(**subject: Any) -> Any:
    file = pynwb.NWBFile("test", "id-1", START, session_id="ses7")
    if subject:
        file.subject = pynwb.file.Subject(**subject)
    return file


def electrodes(file: Any) -> Any:
    group = file.create_electrode_group("g", "d", "CA1", file.create_device("probe"))
    for _ in range(3):
        file.add_electrode(group=group, location="CA1")
    return file.create_electrode_table_region([0, 1, 2], "all")


def save(file: Any, path: Path) -> Path:
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file)
    return path


def lfp_file(path: Path, *names: str) -> Path:
    file = new_file(subject_id="m1", species="Mus musculus")
    region = electrodes(file)
    for name in names:
        file.add_acquisition(
            pynwb.ecephys.ElectricalSeries(
                name, RAW, region, rate=1250.0, conversion=2e-7, starting_time=0.05
            )
        )
    return save(file, path)


def test_units_series_and_intervals_of_one_file(tmp_path: Path, read: Callable[..., Any]) -> None:
    file = new_file(subject_id="m1", species="Mus musculus")
    file.add_unit_column("quality", "q")
    file.add_unit_column("depth", "d")
    file.add_unit_column("sites", "s", index=True)
    file.add_unit(spike_times=[0.1, 0.5], quality="good", depth=3.0, sites=[1, 2], id=10)
    file.add_unit(spike_times=[0.2], quality="mua", depth=4.0, sites=[3], id=12)
    file.add_trial(start_time=0.0, stop_time=1.0)
    file.add_trial(start_time=1.0, stop_time=np.nan)
    file.add_acquisition(
        pynwb.TimeSeries("speed", data=np.arange(9.0), unit="m/s", timestamps=np.arange(9) / 3)
    )
    file.add_acquisition(pynwb.TimeSeries("cube", data=np.zeros((2, 2, 2)), unit="x", rate=1.0))
    module = file.create_processing_module("behavior", "b")
    position = pynwb.behavior.Position(name="pos")
    position.create_spatial_series(
        name="xy", data=np.ones((5, 2)), reference_frame="cage", rate=2.0, unit="cm"
    )
    module.add(position)
    recording, told = read(save(file, tmp_path / "a.nwb"))
    events = recording.modalities["spike"]
    assert events.times.tolist() == [0.1, 0.2, 0.5]
    assert (events.unit_ids.tolist(), events.units) == ([0, 1, 0], ("10", "12"))
    assert events.table["quality"].tolist() == ["good", "mua"]
    assert "sites" not in events.table  # no column with one value a unit
    assert recording.behaviour["trials"].end.tolist() == [1.0]
    assert (recording.behaviour["speed"].rate, recording.behaviour["speed"].unit) == (3.0, "m/s")
    assert recording.behaviour["xy"].unit == "cm"
    assert (recording.subject, recording.session, recording.species) == ("m1", "ses7", "mouse")
    assert "cube" not in recording.behaviour
    assert told == ""


def test_an_electrical_series_keeps_its_integers(tmp_path: Path) -> None:
    found = read_exact(lfp_file(tmp_path / "a.nwb", "lfp"))
    lfp = found.recording.modalities["lfp"]
    assert (lfp.unit, lfp.rate, lfp.start, lfp.channels) == ("V", 1250.0, 0.05, ("0", "1", "2"))
    store = Store.create(tmp_path / "store")
    store.add(found.recording, quantize=found.quantize)
    np.testing.assert_array_equal(np.load(store.path / "recordings/a/lfp.data.npy"), RAW)


def test_a_series_that_does_not_say_is_left_out_unless_named(
    tmp_path: Path, read: Callable[..., Any]
) -> None:
    path = lfp_file(tmp_path / "a.nwb", "wires", "lfp")
    recording, told = read(path)
    assert set(recording.modalities) == {"lfp"}
    assert "'wires' is left out; data='wires' with modality= reads it" in told
    named = read_exact(path, Options(data="lfp", modality=None))
    assert named.recording.modalities["lfp"].data.shape == (200, 3)


def test_a_plain_series_called_like_a_modality_is_one(tmp_path: Path) -> None:
    file = new_file(subject_id="h1", species="Homo sapiens")
    data = 1e-5 * np.random.default_rng(0).normal(size=(50, 2))
    file.add_acquisition(
        pynwb.TimeSeries(
            name="eeg", data=data, unit="volts", rate=250.0, description="channels: Cz, Oz"
        )
    )
    file.add_acquisition(pynwb.TimeSeries(name="grip", data=data, unit="N", rate=250.0))
    recording = read(save(file, tmp_path / "a.nwb"))
    assert (recording.modalities["eeg"].unit, recording.species) == ("V", "human")
    assert recording.modalities["eeg"].channels == ("Cz", "Oz")
    assert list(recording.behaviour) == ["grip"]


def test_one_series_takes_the_modality_given(tmp_path: Path) -> None:
    assert read(lfp_file(tmp_path / "a.nwb", "wires"), "ecog").modalities["ecog"].rate == 1250.0


def test_several_series_ask_for_one(tmp_path: Path, read: Callable[..., Any]) -> None:
    path = lfp_file(tmp_path / "a.nwb", "one", "two")
    with pytest.raises(ValueError, match="several series that could be lfp; pass data= one of: 'o"):
        read(path, "lfp")
    with pytest.raises(ValueError, match="has no series 'x'; it has 'one', 'two'"):
        read(path, data="x")
    assert read(path, "lfp", data="two")[0].modalities["lfp"].channels == ("0", "1", "2")


def test_a_modality_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no calcium; it has the series 'lfp'"):
        read(lfp_file(tmp_path / "a.nwb", "lfp"), "calcium")


def test_fluorescence_is_calcium(tmp_path: Path) -> None:
    file = new_file(subject_id="w", species="Caenorhabditis elegans")
    device = file.create_device("scope")
    optical = pynwb.ophys.OpticalChannel("c", "d", 500.0)
    plane = file.create_imaging_plane(
        name="plane",
        optical_channel=optical, description="d", device=device, excitation_lambda=488.0,
        indicator="GCaMP", location="head", imaging_rate=2.0,
    )  # fmt: skip
    segmentation = pynwb.ophys.PlaneSegmentation("s", plane, "cells")
    for _ in range(2):
        segmentation.add_roi(image_mask=np.ones((2, 2)))
    images = pynwb.ophys.ImageSegmentation(name="seg")
    images.add_plane_segmentation(segmentation)
    module = file.create_processing_module("ophys", "o")
    module.add(images)
    region = segmentation.create_roi_table_region("all", region=[0, 1])
    dff = pynwb.ophys.DfOverF(name="dff")
    module.add(dff)
    dff.create_roi_response_series(
        name="traces", data=np.random.default_rng(0).normal(size=(30, 2)), rois=region,
        unit="n.a.", timestamps=np.arange(30) / 2,
    )  # fmt: skip
    recording = read(save(file, tmp_path / "a.nwb"))
    calcium = recording.modalities["calcium"]
    assert (calcium.rate, calcium.channels) == (2.0, ("0", "1"))
    assert recording.species == "worm"


def test_an_unnamed_subject_is_named_after_the_file(
    tmp_path: Path, read: Callable[..., Any]
) -> None:
    file = new_file()
    file.add_unit(spike_times=[0.1, np.nan])
    recording, told = read(save(file, tmp_path / "a.nwb"), "spike")
    assert (recording.subject, recording.species) == ("a", "other")
    assert "the file names no subject" in told
    assert "1 without a finite time" in told


def test_units_without_spikes_are_said(tmp_path: Path, read: Callable[..., Any]) -> None:
    file = new_file(subject_id="x", species="Equus")
    file.add_unit_column("quality", "q")
    file.add_unit(quality="good")
    file.add_trial(start_time=0.0, stop_time=1.0)
    recording, told = read(save(file, tmp_path / "a.nwb"))
    assert "the units have no spike times" in told
    assert recording.species == "other"


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    path = save(new_file(subject_id="x"), tmp_path / "a.nwb")
    with pytest.raises(ValueError, match="holds no signal, no spikes and no annotations"):
        read(path)


def test_nwb_1_and_other_hdf5_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.nwb", "w") as file:
        file["nwb_version"] = "NWB-1.0.6"
    with pytest.raises(ValueError, match="is NWB 1; NWB 2 is read here"):
        read(tmp_path / "a.nwb")
    with h5py.File(tmp_path / "b.nwb", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="is HDF5 but not NWB: it has no nwb_version"):
        read(tmp_path / "b.nwb")


def test_a_truncated_file_says_what_hdf5_says(tmp_path: Path) -> None:
    path = lfp_file(tmp_path / "a.nwb", "lfp")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"is truncated or not HDF5: .*eof = \d+.*stored_eof"):
        read(path)
