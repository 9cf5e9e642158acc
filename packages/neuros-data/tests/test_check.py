"""Every fault planted in a store is found and named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neuros_core import Intervals, Recording, Signal, Species
from neuros_data import Store, make_split, open_store, read
from neuros_data.check import check_store, label_position_share
from neuros_data.format import read_json, write_array, write_json


def kinds(store: Store) -> list[str]:
    return [f.kind for f in check_store(open_store(store.path)).faults]


def test_a_sound_store_has_no_fault(ramp_store: Store) -> None:
    make_split(ramp_store, window=0.5).save(ramp_store, "time")
    report = check_store(ramp_store)
    assert report.ok
    assert str(report) == "1 recordings: 0 faults, 0 warnings"


def test_one_changed_byte_is_found(ramp_store: Store) -> None:
    path = ramp_store.path / "recordings/ramp/lfp.data.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    (fault,) = check_store(ramp_store).faults
    assert (fault.kind, fault.where) == ("checksum", "ramp/lfp.data.npy")
    assert "expected" in fault.message


def test_a_truncated_and_a_missing_array_are_found(ramp_store: Store) -> None:
    folder = ramp_store.path / "recordings/ramp"
    path = folder / "lfp.data.npy"
    path.write_bytes(path.read_bytes()[:-8])
    (folder / "spike.times.npy").unlink()
    make_split(ramp_store, guard=0.0).to_dict()
    found = check_store(open_store(ramp_store.path)).faults
    assert [f.where for f in found] == ["ramp/lfp.data.npy", "ramp/spike.times.npy"]
    assert "truncated" in found[0].message
    assert "is missing" in found[1].message


def test_faults_of_metadata_are_found(ramp_store: Store) -> None:
    folder = ramp_store.path / "recordings/ramp"
    meta = read_json(folder / "meta.json")
    (folder / "stray.npy").write_bytes(b"")
    write_json(folder / "meta.json", {**meta, "id": "other"})
    found = check_store(open_store(ramp_store.path)).faults
    assert [f.message for f in found] == ["meta.json names it 'other'", "not listed in meta.json"]
    (folder / "meta.json").write_text("{", encoding="utf-8")
    assert kinds(ramp_store) == ["schema"]


def test_values_that_break_their_promises_are_found(ramp_store: Store) -> None:
    folder = ramp_store.path / "recordings/ramp"
    meta = read_json(folder / "meta.json")
    data = np.load(folder / "lfp.data.npy")
    data[3] = np.nan
    meta["modalities"]["lfp"]["arrays"]["data"] = write_array(folder / "lfp.data.npy", data)
    write_json(folder / "meta.json", meta)
    (fault,) = check_store(open_store(ramp_store.path)).faults
    assert fault.where == "ramp/lfp"
    assert fault.message == "2 samples not finite and not marked"
    times = np.load(folder / "spike.times.npy")[::-1]
    meta["modalities"]["spike"]["arrays"]["times"] = write_array(folder / "spike.times.npy", times)
    write_json(folder / "meta.json", meta)
    assert kinds(ramp_store) == ["schema"]


def test_marked_samples_and_duplicates_are_warnings(
    make_store: Callable[..., Store], ramp: Callable[..., Recording]
) -> None:
    data = np.arange(100.0)[:, None]
    data[:25] = np.inf
    lfp = Recording("r", "s", "1", Species.RAT, {"lfp": Signal(data, rate=10.0)})
    report = check_store(make_store(ramp("a"), ramp("b", subject="s2"), lfp))
    assert report.ok
    assert [(w.kind, w.where) for w in report.warnings] == [
        ("values", "r/lfp"),
        ("duplicate", "a, b"),
    ]
    assert report.warnings[0].message == "25.00% of the samples invalid"
    assert "warning duplicate: a, b: hold the same samples" in str(report)


def test_labels_tied_to_time_are_a_warning(make_store: Callable[..., Store]) -> None:
    def store(codes: np.ndarray) -> Store:
        start = np.arange(float(len(codes)))
        trial = Intervals(start, start + 0.5, {"code": codes})
        lfp = Signal(np.random.default_rng(0).standard_normal((400, 1)), rate=10.0)
        return make_store(Recording("r", "s", "1", Species.HUMAN, {"lfp": lfp}, {"trial": trial}))

    rest_first = np.array([0] * 8 + [1, 2, 3] * 8)
    (warning,) = check_store(store(rest_first)).warnings
    assert warning.where == "r/trial.code"
    assert "confounded with time" in warning.message
    assert check_store(store(np.array([0, 1, 2, 3] * 8))).warnings == ()


def test_raw_event_codes_tied_to_time_are_a_warning(make_store: Callable[..., Store]) -> None:
    def warned(classes: list[str]) -> list[str]:
        # Each trial has its class, the start and the end of its stimulus: as GDF and EDF+ list it.
        codes = np.array(["start", *(c for name in classes for c in (name, "on", "off"))])
        start = np.arange(float(len(codes)))
        events = Intervals(start, start, {"label": codes})
        eeg = Signal(np.random.default_rng(0).standard_normal((1000, 1)), rate=10.0)
        behaviour = {"annotations": events}
        store = make_store(Recording("r", "s", "1", Species.HUMAN, {"eeg": eeg}, behaviour))
        return [f.message for f in check_store(store).warnings]

    (rest_first,) = warned(["rest"] * 8 + ["a", "b", "c"] * 8)
    assert rest_first == (
        "confounded with time: mean position of rest at 12% of all, not near 50%; "
        "slow drift predicts the label"
    )
    (halves,) = warned(["left"] * 16 + ["right"] * 16)
    assert "27% of the variance of position lies between classes" in halves
    (rest_last,) = warned(["a", "b", "c"] * 8 + ["rest"] * 8)
    assert "mean position of rest at 87% of all" in rest_last
    assert warned(["rest", "a", "b", "c"] * 8) == []


@pytest.mark.recordings
def test_rest_first_in_the_ssvep_recordings_is_a_warning(
    make_store: Callable[..., Store], recordings: Path
) -> None:
    (path,) = (recordings / "eeg_ssvep").glob("subject01_*.gdf")
    with pytest.warns(UserWarning, match="unit"):
        store = make_store(read(path, "eeg"))
    found = [f.message for f in check_store(store).warnings if f.kind == "label"]
    assert len(found) == 1
    assert "mean position of 33024 at 12%" in found[0]


def test_position_share_is_one_when_position_tells_the_class() -> None:
    labels = np.repeat(["a", "b"], 50)
    assert label_position_share(labels, np.repeat([0.0, 1.0], 50)) == pytest.approx(1.0)
    assert label_position_share(labels, np.zeros(100)) == 0.0
    # Two halves of a ramp: between-class variance is 3/4 of 1/12 of the length squared.
    assert label_position_share(labels, np.arange(100.0)) == pytest.approx(0.75, abs=1e-3)


def test_half_written_recordings_are_found_and_removed(ramp_store: Store) -> None:
    partial = ramp_store.path / "recordings" / ".b.1.partial"
    partial.mkdir()
    assert kinds(ramp_store) == ["partial"]
    assert check_store(ramp_store, fix=True).ok
    assert not partial.exists()


def test_leaking_and_unreadable_splits_are_found(ramp_store: Store) -> None:
    split = make_split(ramp_store, window=0.5)
    split.save(ramp_store, "a")
    content = ramp_store.files.read_split("a")
    ramp_store.files.write_split("leaky", {**content, "guard": 5.0})
    ramp_store.files.write_split("lost", {**content, "parts": {"train": {"x": [[0, 1]]}}})
    ramp_store.files.write_split("broken", {})
    found = {f.where: f.message for f in check_store(ramp_store).faults}
    assert set(found) == {"leaky", "lost", "broken"}
    assert found["leaky"].startswith("leaks: stretches")
    assert found["lost"] == "refers to unreadable recordings: x"
    assert found["broken"].startswith("cannot be read")
