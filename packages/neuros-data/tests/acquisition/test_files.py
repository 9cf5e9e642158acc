"""Local files as a source."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import edfio
import numpy as np
import pytest

from neuros_data import Store
from neuros_data.acquisition.files import LocalFiles, LocalFilesSettings
from neuros_data.acquisition.source import Source
from neuros_data.transfer import TransferSettings


def _edf(path: Path) -> Path:
    data = np.round(np.random.default_rng(0).normal(size=500) * 100)
    signal = edfio.EdfSignal(
        data,
        100,
        label="C3",
        physical_dimension="uV",
        physical_range=(-1000, 1000),
        digital_range=(-1000, 1000),
    )
    edfio.Edf([signal], annotations=[edfio.EdfAnnotation(1, 1, "go")]).write(path)
    return path


def _source(*paths: Path, **settings: Any) -> LocalFiles:
    return LocalFiles(LocalFilesSettings(tuple(map(str, paths)), **settings))


def test_a_file_is_one_recording_without_loss(
    tmp_path: Path,
    transfer: TransferSettings,
    fetch: Callable[..., Path],
    make_store: Callable[..., Store],
) -> None:
    source = _source(_edf(tmp_path / "night one.edf"), modality="ecog", subject="r1", species="rat")
    (session,) = source.list(transfer)
    assert session.id == "r1_night-one"
    prepared = source.prepare(session, fetch(source, session), source.settings)
    ecog = prepared.recording.modalities["ecog"]
    assert (prepared.recording.subject, str(prepared.recording.species)) == ("r1", "rat")
    assert "annotations" in prepared.recording.behaviour
    assert prepared.support == 0.0
    stored = make_store(prepared.recording, quantize=prepared.quantize)
    meta = stored.files.meta(session.id)
    assert meta["modalities"]["ecog"]["arrays"]["data"]["dtype"] == "<i2"
    np.testing.assert_allclose(
        stored.recordings[session.id].modalities["ecog"].data, ecog.data, rtol=1e-6
    )


def test_what_belongs_to_a_file_comes_with_it(tmp_path: Path) -> None:
    text = "[Common Infos]\nDataFile=other.eeg\nMarkerFile=gone.vmrk\n"
    (tmp_path / "a.vhdr").write_text(text)
    for name in ("other.eeg", "a.vmrk", "ab.vmrk"):
        (tmp_path / name).write_bytes(b"0")
    source = _source(tmp_path / "a.vhdr")
    found = [f.path for f in source.files(source.list(TransferSettings())[0])]
    assert found == ["a.vhdr", "a.vmrk", "other.eeg"]


def test_a_bids_name_brings_its_sidecars(tmp_path: Path) -> None:
    stem = "sub-01_task-rest"
    for name in ("eeg.edf", "events.tsv", "eeg.json"):
        (tmp_path / f"{stem}_{name}").write_bytes(b"0")
    (tmp_path / "sub-01_task-resting_eeg.json").write_bytes(b"0")
    source = _source(tmp_path / f"{stem}_eeg.edf")
    found = [f.path for f in source.files(source.list(TransferSettings())[0])]
    assert found == [f"{stem}_{name}" for name in ("eeg.edf", "eeg.json", "events.tsv")]


def test_a_folder_comes_whole(tmp_path: Path) -> None:
    folder = tmp_path / "alf"
    (folder / "probe00").mkdir(parents=True)
    (folder / "probe00" / "spikes.times.npy").write_bytes(b"0")
    (folder / "trials.csv").write_bytes(b"0")
    source = _source(folder)
    found = [f.path for f in source.files(source.list(TransferSettings())[0])]
    assert found == ["alf/probe00/spikes.times.npy", "alf/trials.csv"]


def test_what_cannot_be_listed_is_refused(tmp_path: Path) -> None:
    settings = TransferSettings()
    with pytest.raises(ValueError, match="local files need paths"):
        LocalFiles().list(settings)
    with pytest.raises(FileNotFoundError, match=r"gone\.edf does not exist"):
        _source(tmp_path / "gone.edf").list(settings)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.edf").write_bytes(b"0")
    with pytest.raises(ValueError, match="two files would be recording 'a'"):
        _source(tmp_path / "one" / "a.edf", tmp_path / "two" / "a.edf").list(settings)
    with pytest.raises(ValueError, match="'sound' is not a valid Modality"):
        LocalFilesSettings(modality="sound")
    source = _source(tmp_path / "one" / "a.edf")
    (session,) = source.list(settings)
    with pytest.raises(TypeError, match="settings needs LocalFilesSettings, got NoneType"):
        source.prepare(session, tmp_path, None)
    assert isinstance(LocalFiles(), Source)


def test_a_date_in_a_name_is_part_of_the_id(tmp_path: Path) -> None:
    paths = [tmp_path / f"rat1_2012.07.11-15.{k}.csv" for k in (25, 33)]
    for path in paths:
        path.write_text("time,a\n0.0,1.0\n0.1,2.0\n")
    source = LocalFiles(LocalFilesSettings(paths=tuple(map(str, paths))))
    found = source.list(TransferSettings())
    assert [info.id for info in found] == [path.stem for path in paths]
    # Nothing of the other session comes along.
    assert [file.path for file in source.files(found[0])] == [paths[0].name]
