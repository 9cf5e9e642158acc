"""EDF and BDF: written byte by byte here, so that every field is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuros_data import Store
from neuros_data.reading import Options, read, read_exact


def tal(onset: str, *texts: str, duration: str = "") -> bytes:
    stamp = onset + (f"\x15{duration}" if duration else "")
    return (stamp + "\x14" + "".join(f"{t}\x14" for t in (texts or ("",)))).encode() + b"\x00"


def write_edf(
    path: Path,
    signals: Sequence[tuple[str, str, Any, tuple[float, float, int, int]]],
    *,
    n_records: int,
    told_records: int | None = None,
    seconds: str = "1",
    annotations: Sequence[bytes] | None = None,
    reserved: str = "",
    patient: str = "X X X X",
    bdf: bool = False,
    date: str = "02.01.99",
) -> Path:
    """Signals are (label, unit, integers (record, sample), (pmin, pmax, dmin, dmax))."""
    size = 3 if bdf else 2
    rows = list(signals)
    if annotations is not None:
        width = 60
        block = b"".join(a.ljust(width * size, b"\x00") for a in annotations)
        label = "BDF Annotations" if bdf else "EDF Annotations"
        rows.append((label, "", (block, width), (-1, 1, -32768, 32767)))
    n = len(rows)

    def cell(value: object, width: int) -> bytes:
        return str(value).encode("latin-1").ljust(width)

    samples = [x[1] if isinstance(x, tuple) else np.asarray(x).shape[1] for _, _, x, _ in rows]
    head = (b"\xffBIOSEMI" if bdf else cell("0", 8)) + cell(patient, 80) + cell("rec", 80)
    head += cell(date, 8) + cell("03.04.05", 8) + cell(256 * (n + 1), 8) + cell(reserved, 44)
    told = n_records if told_records is None else told_records
    head += cell(told, 8) + cell(seconds, 8) + cell(n, 4)
    columns = [
        [cell(r[0], 16) for r in rows],
        [cell("", 80)] * n,
        [cell(r[1], 8) for r in rows],
        *[[cell(r[3][i], 8) for r in rows] for i in range(4)],
        [cell("", 80)] * n,
        [cell(s, 8) for s in samples],
        [cell("", 32)] * n,
    ]
    body = b""
    for k in range(n_records):
        for _, _, x, _ in rows:
            if isinstance(x, tuple):
                block, width = x
                body += block[k * width * size : (k + 1) * width * size]
            else:
                wide = np.asarray(x)[k].astype("<i4")
                body += wide.view("u1").reshape(-1, 4)[:, :size].tobytes()
    path.write_bytes(head + b"".join(c for column in columns for c in column) + body)
    return path


RANGE = (-100.0, 100.0, -1000, 1000)


def counts(n_records: int, n: int, seed: int = 0, most: int = 1000) -> np.ndarray:
    return np.random.default_rng(seed).integers(-most, most, (n_records, n))


def test_samples_are_integers_times_the_step_in_volts(tmp_path: Path) -> None:
    raw = counts(3, 100)
    path = write_edf(tmp_path / "a.edf", [("Cz", "uV", raw, RANGE)], n_records=3)
    eeg = read(path).modalities["eeg"]
    np.testing.assert_allclose(eeg.data[:, 0], raw.ravel() * 0.1e-6, rtol=1e-12, atol=1e-20)
    assert (eeg.rate, eeg.unit, eeg.channels, eeg.valid) == (100.0, "V", ("Cz",), None)


def test_the_store_keeps_the_integers_of_the_file(tmp_path: Path) -> None:
    raw = counts(2, 50)
    signals = [("Cz", "uV", raw, RANGE), ("Oz", "mV", -raw, (-3.0, 7.0, -1000, 1000))]
    found = read_exact(write_edf(tmp_path / "a.edf", signals, n_records=2))
    store = Store.create(tmp_path / "store")
    store.add(found.recording, quantize=found.quantize)
    stored = np.load(store.path / "recordings" / "a" / "eeg.data.npy")
    assert stored.dtype == np.int16
    np.testing.assert_array_equal(stored, np.stack([raw.ravel(), -raw.ravel()], axis=1))


def test_bdf_keeps_24_bits_and_their_sign(tmp_path: Path) -> None:
    raw = counts(2, 40, most=2**23 - 1)
    raw[0, :2] = -(2**23), 2**23 - 1
    limits = ("-8388.61", "8388.607", -8388610, 8388607)
    path = write_edf(tmp_path / "a.bdf", [("A1", "uV", raw, limits)], n_records=2, bdf=True)
    found = read_exact(path)
    nanovolts = found.recording.modalities["eeg"].data[:, 0] * 1e9
    np.testing.assert_allclose(nanovolts, raw.ravel(), rtol=1e-9, atol=1e-6)
    assert found.recording.provenance["format"] == "BDF"


def test_bdf_annotations_and_trigger(tmp_path: Path) -> None:
    notes = [tal("+0") + tal("+0.5", "go"), tal("+1")]
    signals = [("Cz", "uV", counts(2, 40), RANGE), ("Status", "", counts(2, 40, 1), RANGE)]
    path = write_edf(
        tmp_path / "a.bdf", signals, n_records=2, annotations=notes, reserved="BDF+C", bdf=True
    )
    recording = read(path)
    assert recording.behaviour["annotations"].columns["label"].tolist() == ["go"]
    assert recording.behaviour["stim"].channels == ("Status",)


def test_every_rate_has_its_own_signal(tmp_path: Path) -> None:
    signals = [
        ("EEG Cz", "uV", counts(4, 100), RANGE),
        ("EEG Oz", "uV", counts(4, 100, 1), RANGE),
        ("Temp rectal", "degC", counts(4, 1, 2), (30.0, 40.0, -1000, 1000)),
        ("EEG slow", "uV", counts(4, 10, 3), RANGE),
    ]
    path = write_edf(tmp_path / "a.edf", signals, n_records=4)
    with pytest.warns(UserWarning, match="1 channels of another rate or unit are kept"):
        recording = read(path)
    assert recording.modalities["eeg"].rate == 100.0
    assert recording.behaviour["temperature"].unit == "degC"
    assert recording.behaviour["temperature"].rate == 1.0
    assert recording.behaviour["eeg (10 Hz, V)"].data.shape == (40, 1)


def test_channels_of_one_rate_around_another_stay_together(tmp_path: Path) -> None:
    first, last = counts(3, 20), counts(3, 20, 1)
    signals = [
        ("Cz", "uV", first, RANGE),
        ("Temp", "degC", counts(3, 5, 2), RANGE),
        ("Oz", "uV", last, RANGE),
    ]
    eeg = read(write_edf(tmp_path / "a.edf", signals, n_records=3)).modalities["eeg"]
    expected = np.stack([first.ravel(), last.ravel()], axis=1) * 1e-7
    np.testing.assert_allclose(eeg.data, expected, rtol=1e-12, atol=1e-20)


def test_a_file_without_records_has_signals_without_samples(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", [("Cz", "uV", np.empty((0, 9)), RANGE)], n_records=0)
    assert read(path).modalities["eeg"].data.shape == (0, 1)


def test_annotations_count_from_the_first_sample(tmp_path: Path) -> None:
    notes = [tal("+0.25") + tal("+1.25", "late", "twice", duration="0.5"), tal("+1.25")]
    path = write_edf(
        tmp_path / "a.edf",
        [("Cz", "uV", counts(2, 100), RANGE)],
        n_records=2,
        annotations=notes,
        reserved="EDF+C",
        patient="P7 F X Jane",
    )
    recording = read(path)
    found = recording.behaviour["annotations"]
    assert found.start.tolist() == [1.0, 1.0]
    assert found.end.tolist() == [1.5, 1.5]
    assert found.columns["label"].tolist() == ["late", "twice"]
    assert recording.subject == "P7"
    assert recording.provenance["began"] == "1999-01-02T03:04:05"


def test_gaps_between_records_keep_the_times(tmp_path: Path) -> None:
    path = write_edf(
        tmp_path / "a.edf",
        [("Cz", "uV", counts(3, 10), RANGE)],
        n_records=3,
        annotations=[tal("+0"), tal("+1"), tal("+5.5")],
        reserved="EDF+D",
    )
    with pytest.warns(UserWarning, match=r"1 gaps between records.*largest is 3.5 s, after 2 s"):
        eeg = read(path).modalities["eeg"]
    assert eeg.rate is None
    assert eeg.times[[0, 10, 19, 20, 29]].tolist() == [0.0, 1.0, 1.9, 5.5, 6.4]


def test_a_discontinuous_file_without_gaps_has_a_rate(tmp_path: Path) -> None:
    path = write_edf(
        tmp_path / "a.edf",
        [("Cz", "uV", counts(2, 10), RANGE)],
        n_records=2,
        annotations=[tal("+0"), tal("+1")],
        reserved="EDF+D",
    )
    assert read(path).modalities["eeg"].rate == 10.0


def test_overlapping_records_are_an_error(tmp_path: Path) -> None:
    path = write_edf(
        tmp_path / "a.edf",
        [("Cz", "uV", counts(2, 10), RANGE)],
        n_records=2,
        annotations=[tal("+0"), tal("+0.5")],
        reserved="EDF+D",
    )
    with pytest.raises(ValueError, match=r"records that overlap: one starts at 0.5 s"):
        read(path)


def test_a_flat_channel_is_kept_and_not_valid(tmp_path: Path) -> None:
    signals = [("Cz", "uV", counts(2, 100), RANGE), ("Oz", "uV", np.full((2, 100), 7), RANGE)]
    eeg = read(write_edf(tmp_path / "a.edf", signals, n_records=2)).modalities["eeg"]
    assert eeg.valid.all(axis=0).tolist() == [True, False]
    np.testing.assert_allclose(eeg.data[:, 1], 0.7e-6)


def test_a_channel_that_moves_late_is_not_flat(tmp_path: Path) -> None:
    late = np.zeros((2, 100), int)
    late[1, 99] = 500
    eeg = read(write_edf(tmp_path / "a.edf", [("Cz", "uV", late, RANGE)], n_records=2))
    assert eeg.modalities["eeg"].valid is None


def test_repeated_labels_are_numbered(tmp_path: Path) -> None:
    signals = [("Cz", "uV", counts(1, 10), RANGE), ("Cz", "uV", counts(1, 10, 1), RANGE)]
    eeg = read(write_edf(tmp_path / "a.edf", signals, n_records=1)).modalities["eeg"]
    assert eeg.channels == ("Cz-0", "Cz-1")


def test_names_that_say_nothing_need_a_modality(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", [("lead 1", "uV", counts(1, 10), RANGE)], n_records=1)
    with pytest.raises(ValueError, match=r"does not say what these channels record: 'lead 1'"):
        read(path)
    assert read(path, "ecog").modalities["ecog"].channels == ("lead 1",)


def test_a_truncated_file_names_bytes_expected_and_found(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", [("Cz", "uV", counts(3, 100), RANGE)], n_records=3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"3 records of 200 bytes need 1112 bytes, found 1102"):
        read(path)
    path.write_bytes(whole[:300])
    with pytest.raises(ValueError, match=r"header of 1 channels needs 512 bytes, found 300"):
        read(path)
    path.write_bytes(whole[:100])
    with pytest.raises(ValueError, match=r"a header needs 256 bytes, found 100"):
        read(path)


def test_what_is_no_edf_says_how_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "a.edf"
    path.write_bytes(b"PK\x03\x04" + bytes(400))
    with pytest.raises(ValueError, match="is not EDF or BDF: it begins with"):
        read(path)


def test_an_unfinished_file_is_read_to_its_last_whole_record(tmp_path: Path) -> None:
    path = write_edf(
        tmp_path / "a.edf", [("Cz", "uV", counts(3, 10), RANGE)], n_records=3, told_records=-1
    )
    path.write_bytes(path.read_bytes() + b"\x01")
    with pytest.warns(UserWarning, match="record") as heard:
        assert len(read(path).modalities["eeg"].data) == 30
    text = "\n".join(str(w.message) for w in heard)
    assert "the header does not say how many records there are; 3 were found" in text
    assert "1 bytes after the last record are left out" in text


def test_a_missing_physical_range_keeps_raw_counts(tmp_path: Path) -> None:
    raw = counts(1, 10)
    path = write_edf(tmp_path / "a.edf", [("Cz", "uV", raw, (0, 0, -1000, 1000))], n_records=1)
    with pytest.warns(UserWarning, match="Cz: no physical range in the header; raw counts"):
        eeg = read(path).modalities["eeg"]
    assert eeg.unit == "a.u."
    np.testing.assert_array_equal(eeg.data[:, 0], raw.ravel())


def test_annotations_without_a_start_or_a_time_are_an_error(tmp_path: Path) -> None:
    signals = [("Cz", "uV", counts(1, 10), RANGE)]
    options = {"n_records": 1, "reserved": "EDF+C"}
    path = write_edf(tmp_path / "a.edf", signals, annotations=[tal("+0", "x")], **options)
    with pytest.raises(ValueError, match="record 0 does not say when it starts"):
        read(path)
    path = write_edf(tmp_path / "a.edf", signals, annotations=[tal("soon")], **options)
    with pytest.raises(ValueError, match="has an annotation without a time: b'soon"):
        read(path)


def test_a_field_that_is_no_number_is_named(tmp_path: Path) -> None:
    path = write_edf(
        tmp_path / "a.edf", [("Cz", "uV", counts(1, 10), RANGE)], n_records=1, seconds="long"
    )
    with pytest.raises(ValueError, match="has no readable record duration: 'long"):
        read(path)


def test_a_file_of_annotations_alone_is_a_recording(tmp_path: Path) -> None:
    path = write_edf(
        tmp_path / "a.edf",
        [],
        n_records=1,
        seconds="0",
        annotations=[tal("+0") + tal("+2", "nap", duration="3")],
        reserved="EDF+C",
        date="never",
    )
    recording = read(path)
    assert not recording.modalities
    assert recording.duration == 5.0
    assert "began" not in recording.provenance


def test_an_argument_without_meaning_for_the_format_is_refused(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "a.edf", [("Cz", "uV", counts(1, 10), RANGE)], n_records=1)
    with pytest.raises(ValueError, match="rate= has no meaning for EDF; it takes modality"):
        read_exact(path, Options(rate=3.0))
