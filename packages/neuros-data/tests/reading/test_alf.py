"""Folders of ALF files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuros_data.reading import read


def fill(folder: Path, **files: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in files.items():
        np.save(folder / (name.replace("__", ".") + ".npy"), np.asarray(values))
    return folder


def session(tmp_path: Path) -> Path:
    root = tmp_path / "Subjects" / "mouse_7" / "2024-05-06" / "001"
    fill(
        root / "alf",
        _ibl_trials__intervals=[[0.0, 1.0], [1.0, np.nan], [2.0, 3.0]],
        _ibl_trials__choice=[1, -1, 0],
        _ibl_wheel__timestamps=np.arange(31) / 10,
        _ibl_wheel__position=np.arange(31.0),
        lonely__value=[1, 2],
    )
    fill(
        root / "alf" / "probe00",
        spikes__times=[0.1, 0.2, 0.9],
        spikes__clusters=[3, 0, 3],
        clusters__depths=[1.0, 2.0, 3.0, 4.0, 5.0],
    )
    (root / "alf" / "clusters.metrics.pqt").write_bytes(b"")
    return root


def test_a_session_has_spikes_trials_and_wheel(tmp_path: Path, read: Callable[..., Any]) -> None:
    recording, told = read(session(tmp_path), species="mouse")
    events = recording.modalities["spike"]
    assert (events.n_units, events.unit_ids.tolist()) == (5, [3, 0, 3])
    assert events.table["depths"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert (recording.subject, recording.session) == ("mouse_7", "2024-05-06-001")
    trials = recording.behaviour["trials"]
    assert trials.start.tolist() == [0.0, 2.0]
    assert trials.columns["choice"].tolist() == [1, 0]
    assert recording.behaviour["wheel.position"].rate == 10.0
    assert "trials: 1 intervals without both ends are left out" in told
    assert "clusters.metrics.pqt is left out" in told
    assert "lonely is left out: it has neither times nor intervals" in told


def test_a_folder_of_spikes_alone(tmp_path: Path) -> None:
    events = read(fill(tmp_path / "p", spikes__times=[0.5, 1.0])).modalities["spike"]
    assert (events.n_units, events.units) == (1, ("0",))


def test_pairs_of_sample_and_time_are_filled(tmp_path: Path) -> None:
    folder = fill(tmp_path / "p", lick__times=[[0, 1.0], [10, 2.0]], lick__level=np.arange(11.0))
    assert read(folder).behaviour["lick.level"].rate == 10.0


def test_several_probes_ask_for_one(tmp_path: Path) -> None:
    for name in ("probe00", "probe01"):
        fill(tmp_path / name, spikes__times=[0.1])
    with pytest.raises(ValueError, match=r"several probes or sorters; pass .*'probe00', 'probe01'"):
        read(tmp_path)


def test_repair_reaches_the_samples(tmp_path: Path, read: Callable[..., Any]) -> None:
    folder = fill(tmp_path / "p", lick__times=[0.0, 2.0, 1.0], lick__level=[1.0, 3.0, 2.0])
    level = read(folder, repair=True)[0].behaviour["lick.level"]
    assert level.data.ravel().tolist() == [1.0, 2.0, 3.0]


def test_spikes_and_clusters_of_different_length_are_an_error(tmp_path: Path) -> None:
    folder = fill(tmp_path / "p", spikes__times=[0.1, 0.2], spikes__clusters=[0])
    with pytest.raises(ValueError, match=r"spikes\.times has 2 values, spikes\.clusters 1"):
        read(folder)
