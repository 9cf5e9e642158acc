"""GDF, FIF, BrainVision and EEGLAB, and what stands beside them in a BIDS data set."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuros_core import Modality
from neuros_data.reading import Options, read, read_exact
from neuros_data.reading._mne_counts import counts_of_gdf

mne = pytest.importorskip("mne")

RATE, N = 200.0, 400


def raw_fif(path: Path, *, first: int = 0) -> Path:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(4, N)) * 1e-5
    info = mne.create_info(["Cz", "Oz", "EOG1", "STI"], RATE, ["eeg", "eeg", "eog", "stim"])
    raw = mne.io.RawArray(data, info, first_samp=first, verbose="error")
    raw.set_meas_date(1_700_000_000)
    onset = np.array([0.5, 0.25]) + first / RATE
    raw.set_annotations(mne.Annotations(onset, [0.0, 0.5], ["b", "a"], orig_time=1_700_000_000))
    raw.save(path, fmt="double", overwrite=True, verbose="error")
    return path


def brainvision(folder: Path, stem: str, names: tuple[str, ...], unit: str = "µV") -> Path:
    """A header, its markers, and float32 samples of about 20 units."""
    rows = [f"Ch{i}={name},,1,{unit}" for i, name in enumerate(names, 1)]
    header = [
        "Brain Vision Data Exchange Header File Version 1.0",
        "[Common Infos]", "Codepage=UTF-8", f"DataFile={stem}.eeg", f"MarkerFile={stem}.vmrk",
        "DataFormat=BINARY", "DataOrientation=MULTIPLEXED", f"NumberOfChannels={len(names)}",
        "SamplingInterval=5000", "[Binary Infos]", "BinaryFormat=IEEE_FLOAT_32",
        "[Channel Infos]", *rows,
    ]  # fmt: skip
    markers = [
        "Brain Vision Data Exchange Marker File, Version 1.0",
        "[Common Infos]", "Codepage=UTF-8", f"DataFile={stem}.eeg",
        "[Marker Infos]", "Mk1=Stimulus,S  7,101,1,0",
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.vhdr").write_text("\n".join(header) + "\n", encoding="utf-8")
    (folder / f"{stem}.vmrk").write_text("\n".join(markers) + "\n", encoding="utf-8")
    data = (np.random.default_rng(0).normal(size=(N, len(names))) * 20).astype("<f4")
    (folder / f"{stem}.eeg").write_bytes(data.tobytes())
    return folder / f"{stem}.vhdr"


@pytest.mark.slow  # the first reading through MNE imports most of it
def test_fif_has_types_and_annotations_from_the_first_sample(tmp_path: Path) -> None:
    recording = read(raw_fif(tmp_path / "a_raw.fif", first=100))
    assert recording.modalities["eeg"].channels == ("Cz", "Oz")
    assert recording.behaviour["eog"].unit == "V"
    assert recording.behaviour["stim"].unit == "a.u."
    found = recording.behaviour["annotations"]
    np.testing.assert_allclose(found.start, [0.25, 0.5], atol=0.5 / RATE)
    assert found.columns["label"].tolist() == ["a", "b"]
    assert recording.provenance["began"].startswith("2023-11-14")


def test_magnetometers_are_kept_beside_the_modalities(tmp_path: Path) -> None:
    info = mne.create_info(["M1", "G1"], RATE, ["mag", "grad"])
    raw = mne.io.RawArray(np.random.default_rng(0).normal(size=(2, N)), info, verbose="error")
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    found = read(tmp_path / "a_raw.fif").behaviour
    assert sorted(signal.unit for signal in found.values()) == ["T", "T/m"]


def test_brainvision_without_types_needs_a_modality(tmp_path: Path) -> None:
    path = brainvision(tmp_path, "a", ("wire 1", "LFP_2"))
    with pytest.raises(ValueError, match="does not say what these channels record: 'wire 1'"):
        read(path)
    recording = read(path, "ecog")
    assert recording.modalities["ecog"].channels == ("wire 1",)
    assert recording.modalities["lfp"].channels == ("LFP_2",)
    assert recording.behaviour["annotations"].start.tolist() == [0.5]


def test_integers_of_brainvision_and_fif_are_found_again(tmp_path: Path) -> None:
    path = brainvision(tmp_path, "a", ("wire 1", "wire 2"))
    header = path.read_text(encoding="utf-8")
    assert "ecog" not in read_exact(path, Options(modality=Modality.ECOG)).quantize
    counts = np.random.default_rng(1).integers(-9000, 9000, (N, 2)).astype("<i2")
    path.write_text(header.replace("IEEE_FLOAT_32", "INT_16").replace(",,1,", ",,0.25,"))
    path.with_suffix(".eeg").write_bytes(counts.tobytes())
    lattice = read_exact(path, Options(modality=Modality.ECOG)).quantize["ecog"]
    np.testing.assert_array_equal(lattice.counts, counts)
    np.testing.assert_allclose(lattice.scale, 0.25e-6)
    raw = mne.io.read_raw_fif(raw_fif(tmp_path / "b_raw.fif"), verbose="error")
    raw.save(tmp_path / "c_raw.fif", fmt="short", verbose="error")
    found = read_exact(tmp_path / "c_raw.fif")
    lattice = found.quantize["eeg"]
    assert lattice.counts.dtype == np.int16
    np.testing.assert_allclose(
        lattice.counts * lattice.scale, found.recording.modalities["eeg"].data, atol=1e-15
    )


@pytest.mark.parametrize(("version", "code"), [(b"GDF 2.20", 4275), (b"GDF 1.25", 0)])
def test_integers_of_gdf_are_found_again(tmp_path: Path, version: bytes, code: int) -> None:
    n_records, counts = 40, np.random.default_rng(2).integers(-3000, 3000, 400).astype("<i2")
    path = gdf(tmp_path / "a.gdf", n_records=n_records, version=version)
    body = bytearray(path.read_bytes())
    one = version == b"GDF 1.25"
    body[184:192] = struct.pack("<q", 512) if one else struct.pack("<HHHH", 2, 0, 0, 0)
    body[244:252] = struct.pack("<II", 1, 20)  # a record lasts 1/20 s
    body[252:256] = struct.pack("<I", 1)
    body[256:258] = b"Cz"
    body[352:360] = b"uV      " if one else bytes(6) + struct.pack("<H", code)
    body[360:376] = struct.pack("<dd", -3276.8, 3276.7)
    body[376:392] = struct.pack("<qq" if one else "<dd", -32768, 32767)
    body[512:] = counts.tobytes() + bytes([1, 200, 0, 0, 0, 0, 0, 0])  # and a table of no events
    path.write_bytes(body)
    found = read_exact(path, Options(modality=Modality.EEG))
    lattice = found.quantize["eeg"]
    np.testing.assert_array_equal(lattice.counts[:, 0], counts)
    np.testing.assert_allclose(
        found.recording.modalities["eeg"].data[:, 0], counts * 1e-7, rtol=1e-6, atol=1e-12
    )
    body[376:392] = bytes(16)  # digital limits that are equal say nothing
    path.write_bytes(body)
    assert counts_of_gdf(path, np.zeros((400, 1))) is None


def test_a_file_that_mne_cannot_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a_raw.fif").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"a_raw\.fif \(19 bytes\) cannot be read as FIF"):
        read(tmp_path / "a_raw.fif")


def gdf(path: Path, *, n_records: int, cut: int = 0, version: bytes = b"GDF 2.20") -> Path:
    fixed = bytearray(256)
    fixed[:8] = version
    fixed[184:186] = struct.pack("<H", 2)
    fixed[236:244] = struct.pack("<q", n_records)
    fixed[252:254] = struct.pack("<H", 1)
    table = bytearray(256)
    table[216:220], table[220:224] = struct.pack("<i", 10), struct.pack("<i", 3)
    body = bytes(fixed + table) + bytes(20 * n_records)
    path.write_bytes(body[: len(body) - cut])
    return path


def test_a_truncated_gdf_names_bytes_expected_and_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 records of 20 bytes need 592 bytes, found 589"):
        read(gdf(tmp_path / "a.gdf", n_records=4, cut=3))
    (tmp_path / "b.gdf").write_bytes(b"GDF 2.20" + bytes(20))
    with pytest.raises(ValueError, match="a header needs 256 bytes, found 28"):
        read(tmp_path / "b.gdf")
    (tmp_path / "c.gdf").write_bytes(b"EDF" + bytes(300))
    with pytest.raises(ValueError, match="is not GDF: it begins with"):
        read(tmp_path / "c.gdf")
    with pytest.raises(ValueError, match="cannot be read as GDF"):
        read(gdf(tmp_path / "d.gdf", n_records=4, cut=3, version=b"GDF 1.25"))


def bids(tmp_path: Path, unit: str = "µV") -> Path:
    root = tmp_path / "set"
    stem = "sub-07_ses-b_task-rest_run-2_ieeg"
    path = brainvision(root / "sub-07" / "ses-b" / "ieeg", stem, ("e1", "e2", "m"), unit)
    (root / "dataset_description.json").write_text("{}")
    (root / "task-rest_ieeg.json").write_text(json.dumps({"PowerLineFrequency": 50, "a": 1}))
    path.with_name(stem + ".json").write_text(json.dumps({"a": 2, "SamplingFrequency": 250}))
    (root / "participants.tsv").write_text("participant_id\tage\nsub-07\t60\nsub-08\t61\n")
    base = "sub-07_ses-b_task-rest_run-2_"
    path.with_name(base + "channels.tsv").write_text(
        "name\ttype\tunits\tstatus\ne1\tECOG\tuV\tgood\ne2\tECOG\tuV\tbad\nm\tMISC\tN\tgood\n"
        "gone\tECOG\tuV\tgood\n"
    )
    path.with_name("sub-07_ses-b_space-mni_electrodes.tsv").write_text(
        "name\tx\ty\tz\ne1\t1\t2\t3\ne2\tn/a\tn/a\tn/a\n"
    )
    path.with_name(base + "events.tsv").write_text(
        "onset\tduration\ttrial_type\n0.5\t1\tgo\nn/a\t1\tstop\n1.5\tn/a\tgo\n"
    )
    return path


def test_a_bids_file_takes_what_stands_beside_it(tmp_path: Path, read: Callable[..., Any]) -> None:
    recording, told = read(bids(tmp_path))
    assert recording.id == "sub-07_ses-b_task-rest_run-2"
    assert (recording.subject, recording.session, recording.species) == ("07", "b", "human")
    ecog = recording.modalities["ecog"]
    assert ecog.channels == ("e1", "e2")
    assert ecog.valid.all(axis=0).tolist() == [True, False]
    assert recording.behaviour["misc"].channels == ("m",)
    assert recording.provenance["sidecar"] == {
        "PowerLineFrequency": 50, "a": 2, "SamplingFrequency": 250,
    }  # fmt: skip
    assert recording.provenance["electrodes"] == {"e1": [1.0, 2.0, 3.0]}
    assert recording.provenance["participant"]["age"] == "60"
    assert recording.provenance["task"] == "rest"
    events = recording.behaviour["events"]
    assert (events.start.tolist(), events.end.tolist()) == ([0.5, 1.5], [1.5, 1.5])
    assert events.columns["trial_type"].tolist() == ["go", "go"]
    assert "names channels that the file lacks: ['gone']" in told
    assert "the sidecar says 250 Hz, the file '200'; the file's rate is kept" in told


def test_sidecars_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = bids(tmp_path)
    events = path.with_name("sub-07_ses-b_task-rest_run-2_events.tsv")
    events.write_text("start\n1\n")
    with pytest.raises(ValueError, match=r"events\.tsv has no column 'onset'; it has \['start'\]"):
        read(path)
    events.write_text("onset\nsoon\n")
    with pytest.raises(ValueError, match="onsets need numbers of seconds, got 'soon'"):
        read(path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(ValueError, match=r"ieeg\.json is not valid JSON"):
        read(path)


def test_the_sidecar_gives_the_repetition_time_of_an_image(tmp_path: Path) -> None:
    nib = pytest.importorskip("nibabel")
    data = np.random.default_rng(0).normal(size=(2, 2, 2, 10))
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "sub-1_task-x_bold.nii")
    (tmp_path / "sub-1_task-x_bold.json").write_text('{"RepetitionTime": 0.8}')
    mask = nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4))
    assert read(tmp_path / "sub-1_task-x_bold.nii", mask=mask).modalities["fmri"].rate == 1.25


def test_units_of_channels_come_from_bids_where_the_file_has_none(tmp_path: Path) -> None:
    path = tmp_path / "sub-1_task-x_eeg.npz"
    np.savez(path, eeg=np.random.default_rng(0).normal(size=(9, 2)) * 20, rate=1.0,
             channels=["Cz", "Oz"])  # fmt: skip
    path.with_name("sub-1_task-x_channels.tsv").write_text("name\tunits\nCz\tuV\nOz\tuV\n")
    assert read(path).modalities["eeg"].unit == "V"
