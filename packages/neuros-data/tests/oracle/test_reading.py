"""Readers beside MNE-Python, edfio, pynwb and nilearn."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuros_core import Recording
from neuros_data import reading

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::FutureWarning")]


def read(*args: Any, **options: Any) -> Recording:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return reading.read(*args, **options)


def edf(path: Path, kind: str, seed: int = 0) -> Path:
    """64 channels, each with a scale of its own, and annotations."""
    edfio = pytest.importorskip("edfio")
    rng = np.random.default_rng(seed)
    signal, to = (edfio.BdfSignal, edfio.Bdf) if kind == "bdf" else (edfio.EdfSignal, edfio.Edf)
    signals = [
        signal(
            rng.normal(size=2560) * 10 ** rng.uniform(0, 2),
            256,
            label=f"E{i}",
            physical_dimension=("uV", "mV", "V")[i % 3],
        )
        for i in range(16)
    ]
    notes = [edfio.EdfAnnotation(0.5, 1.25, "go"), edfio.EdfAnnotation(3.14159, None, "stop")]
    to(signals, annotations=notes).write(path)
    return path


@pytest.mark.slow  # imports MNE
@pytest.mark.parametrize("kind", ["edf", "bdf"])
def test_samples_equal_those_of_mne_bit_for_bit(tmp_path: Path, kind: str) -> None:
    mne = pytest.importorskip("mne")
    path = edf(tmp_path / f"a.{kind}", kind)
    raw = getattr(mne.io, f"read_raw_{kind}")(path, preload=True, verbose="error")
    ours = read(path, "eeg")
    np.testing.assert_array_equal(ours.modalities["eeg"].data.T, raw.get_data())
    assert ours.modalities["eeg"].channels == tuple(raw.ch_names)
    notes = ours.behaviour["annotations"]
    np.testing.assert_allclose(notes.start, raw.annotations.onset, atol=1 / 256)
    np.testing.assert_allclose(notes.end - notes.start, raw.annotations.duration)
    assert notes.columns["label"].tolist() == [str(d) for d in raw.annotations.description]


def test_integers_equal_those_of_edfio(tmp_path: Path) -> None:
    edfio = pytest.importorskip("edfio")
    path = edf(tmp_path / "a.edf", "edf")
    with pytest.warns(UserWarning, match="doubtful"):  # some channels are of a volt
        found = reading.read_exact(path, reading.Options(modality="eeg"))
    signal = found.recording.modalities["eeg"]
    lattice = found.quantize["eeg"]
    steps = np.rint((signal.data - lattice.offset) / lattice.scale).astype(int)
    peer = np.stack([s.digital for s in edfio.read_edf(path).signals], axis=1)
    np.testing.assert_array_equal(steps, peer)


@pytest.mark.recordings
@pytest.mark.slow  # seven files through MNE
def test_real_edf_and_gdf_equal_mne(recordings: Path) -> None:
    mne = pytest.importorskip("mne")
    files = [*sorted((recordings / "eeg_ssvep").glob("*.gdf")), recordings / "eeg_edf/S001R02.edf"]
    for path in files:
        reader = mne.io.read_raw_gdf if path.suffix == ".gdf" else mne.io.read_raw_edf
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            raw = reader(path, preload=True, verbose="error")
        ours = read(path)
        np.testing.assert_array_equal(ours.modalities["eeg"].data.T, raw.get_data())
        notes = ours.behaviour["annotations"]
        order = np.argsort(raw.annotations.onset, kind="stable")
        onset = raw.annotations.onset[order]
        np.testing.assert_allclose(notes.start, onset, atol=1 / raw.info["sfreq"])


def test_fif_equals_mne_bit_for_bit(tmp_path: Path) -> None:
    mne = pytest.importorskip("mne")
    info = mne.create_info([f"E{i}" for i in range(8)], 256.0, "eeg")
    data = np.random.default_rng(0).normal(size=(8, 1000)) * 1e-5
    raw = mne.io.RawArray(data, info, first_samp=300, verbose="error")
    raw.set_annotations(mne.Annotations([0.5, 2.0], [0.0, 1.0], ["a", "b"]))
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    again = mne.io.read_raw_fif(tmp_path / "a_raw.fif", preload=True, verbose="error")
    ours = read(tmp_path / "a_raw.fif")
    np.testing.assert_array_equal(ours.modalities["eeg"].data.T, again.get_data())
    events, _ = mne.events_from_annotations(again, verbose="error")
    samples = np.rint(ours.behaviour["annotations"].start * 256).astype(int)
    np.testing.assert_allclose(samples, events[:, 0] - again.first_samp, atol=1)


def test_eeglab_equals_mne_bit_for_bit(tmp_path: Path) -> None:
    mne = pytest.importorskip("mne")
    from scipy.io import savemat

    data = np.random.default_rng(0).normal(size=(3, 500)).astype(np.float32) * 20
    locations = np.zeros(3, dtype=[(n, object) for n in ("labels", "X", "Y", "Z")])
    for row, name in zip(locations, ("Cz", "Pz", "Oz"), strict=True):
        row["labels"], row["X"], row["Y"], row["Z"] = name, 1.0, 0.0, 0.0
    event = np.zeros(1, dtype=[("type", object), ("latency", object), ("duration", object)])
    event[0] = ("go", 101.0, 0.0)
    fields = {
        "setname": "a", "nbchan": 3, "trials": 1, "pnts": 500, "srate": 250.0, "xmin": 0.0,
        "xmax": 2.0, "data": data, "chanlocs": locations, "event": event, "epoch": [],
        "icawinv": [],
    }  # fmt: skip
    savemat(tmp_path / "a.set", {"EEG": fields}, appendmat=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = mne.io.read_raw_eeglab(tmp_path / "a.set", preload=True, verbose="error")
    ours = read(tmp_path / "a.set")
    np.testing.assert_array_equal(ours.modalities["eeg"].data.T, raw.get_data())
    np.testing.assert_allclose(ours.behaviour["annotations"].start, raw.annotations.onset)


@pytest.mark.recordings
def test_brainvision_equals_mne_bit_for_bit(recordings: Path) -> None:
    mne = pytest.importorskip("mne")
    (path,) = (recordings / "ecog_lfp_grip").glob("*.vhdr")
    raw = mne.io.read_raw_brainvision(path, preload=True, verbose="error")
    ours = read(path)
    for signal in (*ours.modalities.values(), ours.behaviour["misc"]):
        np.testing.assert_array_equal(signal.data.T, raw.get_data(picks=list(signal.channels)))


@pytest.mark.recordings
def test_real_nwb_equals_pynwb(recordings: Path) -> None:
    pynwb = pytest.importorskip("pynwb")
    path = recordings / "nwb_units" / "A8604-211122.nwb"
    ours = read(path).modalities["spike"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pynwb.NWBHDF5IO(str(path), "r", load_namespaces=True) as io:
            trains = [np.asarray(t) for t in io.read().units["spike_times"][:]]
    assert ours.n_units == len(trains)
    for i, train in enumerate(trains):
        np.testing.assert_array_equal(ours.times[ours.unit_ids == i], train)


def test_electrical_series_equal_pynwb_in_volts(tmp_path: Path) -> None:
    pynwb = pytest.importorskip("pynwb")
    import datetime as dt

    file = pynwb.NWBFile("t", "i", dt.datetime(2024, 1, 2, tzinfo=dt.UTC))
    group = file.create_electrode_group("g", "d", "CA1", file.create_device("probe"))
    for _ in range(3):
        file.add_electrode(group=group, location="CA1")
    raw = np.random.default_rng(0).integers(-3000, 3000, (500, 3)).astype(np.int16)
    file.add_acquisition(
        pynwb.ecephys.ElectricalSeries(
            name="lfp", data=raw, electrodes=file.create_electrode_table_region([0, 1, 2], "all"),
            rate=1000.0, conversion=1.95e-7, offset=1e-5, channel_conversion=[1.0, 2.0, 0.5],
        )
    )  # fmt: skip
    with pynwb.NWBHDF5IO(str(tmp_path / "a.nwb"), "w") as io:
        io.write(file)
    with pynwb.NWBHDF5IO(str(tmp_path / "a.nwb"), "r") as io:
        peer = io.read().acquisition["lfp"].get_data_in_units()
    np.testing.assert_allclose(read(tmp_path / "a.nwb").modalities["lfp"].data, peer, rtol=1e-12)


@pytest.mark.slow  # imports nilearn, and with it scikit-learn
def test_region_table_equals_the_labels_masker(tmp_path: Path) -> None:
    nib = pytest.importorskip("nibabel")
    maskers = pytest.importorskip("nilearn.maskers")
    rng = np.random.default_rng(0)
    affine = np.array([[-3.0, 0, 0, 30], [0, 3, 0, -40], [0, 0, 3.5, -20], [0, 0, 0, 1]])
    data = (1000 + 100 * rng.normal(size=(10, 11, 9, 50))).astype(np.float32)
    image = nib.Nifti1Image(data, affine)
    image.header.set_zooms((3, 3, 3.5, 2))
    nib.save(image, tmp_path / "a.nii.gz")
    for scale in (1.0, 0.5):
        # The second atlas is on a finer grid and is resampled to the data by both.
        shape = tuple(round(n / scale) for n in (10, 11, 9))
        grid = affine @ np.diag([scale, scale, scale, 1.0])
        chart = nib.Nifti1Image(rng.integers(0, 9, shape).astype(np.int16), grid)
        nib.save(chart, tmp_path / "atlas.nii.gz")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            masker = maskers.NiftiLabelsMasker(str(tmp_path / "atlas.nii.gz"), standardize=None)
            peer = masker.fit_transform(str(tmp_path / "a.nii.gz"))
        ours = read(tmp_path / "a.nii.gz", atlas=tmp_path / "atlas.nii.gz").modalities["fmri"]
        np.testing.assert_allclose(ours.data, peer, rtol=1e-6)
