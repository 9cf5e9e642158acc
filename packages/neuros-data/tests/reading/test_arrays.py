"""NPZ, NPY, MAT and HDF5: which array is what, and what to do when the names do not say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from neuros_data import Store
from neuros_data.reading import Options, read, read_exact


@pytest.fixture
def npz(tmp_path: Path) -> Any:
    def write(**arrays: Any) -> Path:
        path = tmp_path / "a.npz"
        np.savez(path, **arrays)
        return path

    return write


def wave(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_a_named_array_with_a_rate_is_a_signal(npz: Any) -> None:
    recording = read(npz(lfp=wave(50, 3), fs=100, speed=np.arange(50.0), note="hello"))
    assert recording.modalities["lfp"].rate == 100.0
    assert recording.behaviour["speed"].channels == ("speed",)
    assert recording.provenance["note"] == "hello"


def test_integers_with_a_scale_keep_their_lattice(npz: Any, tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(-128, 128, (40, 2)).astype(np.int8)
    found = read_exact(npz(emg=raw, rate=200.0), Options(scale=10.0, unit="uV"))
    store = Store.create(tmp_path / "store")
    store.add(found.recording, quantize=found.quantize)
    np.testing.assert_array_equal(np.load(store.path / "recordings/a/emg.data.npy"), raw)
    assert found.recording.modalities["emg"].unit == "V"


def test_names_with_units_are_converted(npz: Any) -> None:
    recording = read(npz(emg_uv=wave(20, 2), dt_ms=2.0))
    emg = recording.modalities["emg"]
    assert (emg.rate, emg.unit) == (500.0, "V")
    np.testing.assert_allclose(emg.data, wave(20, 2) * 1e-6, rtol=1e-7)


def test_a_file_may_name_its_unit_and_channels(npz: Any) -> None:
    eeg = read(npz(eeg=wave(20, 2) * 20, rate=10.0, unit="uV", channels=["Cz", "Oz"])).modalities
    assert eeg["eeg"].unit == "V"
    assert eeg["eeg"].channels == ("Cz", "Oz")


def test_spikes_become_events_with_a_table(npz: Any) -> None:
    path = npz(
        spike_times=np.array([0.3, 0.1, np.nan, 0.2]),
        spike_units=np.array([1, 0, 1, 1]),
        unit_depth=np.array([5.0, 6.0, 7.0]),
        n_units=3,
    )
    with pytest.warns(UserWarning, match="spikes: ") as heard:
        events = read(path).modalities["spike"]
    assert events.times.tolist() == [0.1, 0.2, 0.3]
    assert events.unit_ids.tolist() == [0, 1, 1]
    assert events.table["unit_depth"].tolist() == [5.0, 6.0, 7.0]
    text = "\n".join(str(w.message) for w in heard)
    assert "1 without a finite time are left out" in text
    assert "times were not in order" in text


def test_unit_names_of_any_kind_are_numbered(npz: Any) -> None:
    path = npz(spike_times_ms=np.array([100.0, 200.0]), spike_clusters=np.array([70, 12]))
    events = read(path, "spike", data="spike_times_ms").modalities["spike"]
    assert events.units == ("12", "70")
    assert events.unit_ids.tolist() == [1, 0]
    assert events.times.tolist() == [0.1, 0.2]


def test_spikes_and_samples_share_a_recording(npz: Any) -> None:
    path = npz(spike_times=np.array([0.1]), lfp=wave(20, 2), rate=10.0)
    recording = read(path)
    assert set(recording.modalities) == {"spike", "lfp"}
    assert recording.modalities["spike"].duration == 2.0


def test_behaviour_beside_spikes_has_its_own_clock(npz: Any) -> None:
    path = npz(
        spike_times=np.array([100.0, 100.5]),
        position_times=np.array([100.0, 100.2, 100.4]),
        position_xy=np.arange(6.0).reshape(3, 2),
        light=np.array([1, 2]),
    )
    recording = read(path)
    assert recording.behaviour["position_xy"].rate == 5.0
    assert recording.modalities["spike"].times.tolist() == [0.0, 0.5]
    assert recording.provenance["clock_origin"] == 100.0
    assert recording.provenance["light"].tolist() == [1, 2]


@pytest.mark.parametrize(("axes", "order"), [("channel time", (0, 1)), ("time channel", (1, 0))])
def test_axes_say_which_is_time(npz: Any, axes: str, order: tuple[int, int]) -> None:
    lfp = read(npz(lfp=wave(3, 30).transpose(order), rate=10.0), axes=axes).modalities["lfp"]
    np.testing.assert_array_equal(lfp.data, wave(3, 30).T)


@pytest.mark.parametrize("axes", ["trial time channel", "trial channel time", "time channel trial"])
def test_trials_stand_one_after_another(npz: Any, read: Callable[..., Any], axes: str) -> None:
    x = wave(4, 10, 2)
    order = [("trial", "time", "channel").index(name) for name in axes.split()]
    recording, told = read(npz(lfp=x.transpose(order), rate=10.0, side=np.arange(4)), axes=axes)
    np.testing.assert_array_equal(recording.modalities["lfp"].data, x.reshape(40, 2))
    trials = recording.behaviour["trial"]
    assert trials.start.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert trials.columns["side"].tolist() == [0, 1, 2, 3]
    assert "4 trials of 1 s stand one after another" in told


def test_open_axes_are_an_error_that_names_the_argument(npz: Any) -> None:
    path = npz(lfp=wave(3, 30), rate=10.0)
    with pytest.raises(ValueError, match=r"lfp has shape \(3, 30\).*pass axes= one of 'time chan"):
        read(path)
    with pytest.raises(ValueError, match=r"axes needs one of 'time channel'.*got 'a b'"):
        read(path, axes="a b")
    with pytest.raises(ValueError, match="pass axes= one of 'trial time channel'"):
        read(npz(lfp=wave(3, 4, 5), rate=10.0))


def test_a_clock_of_the_length_of_one_axis_decides(npz: Any) -> None:
    lfp = read(npz(lfp=wave(3, 30).T, time=np.arange(30) / 10)).modalities["lfp"]
    assert lfp.rate == 10.0
    with pytest.raises(ValueError, match="does not say which axis is time"):
        read(npz(lfp=wave(30, 30), time=np.arange(30) / 10))


def test_several_candidates_ask_for_data(npz: Any) -> None:
    path = npz(a=wave(20, 2), b=wave(20, 3), rate=1.0)
    with pytest.raises(ValueError, match=r"does not say what it records; pass modality="):
        read(path)
    with pytest.raises(ValueError, match=r"pass data= one of: 'a \[20, 2\]', 'b \[20, 3\]'"):
        read(path, "lfp")
    with pytest.raises(ValueError, match=r"has no array 'c'; it has 'a', 'b', 'rate'"):
        read(path, "lfp", data="c")
    with pytest.raises(ValueError, match=r"does not say what 'a' records; pass modality="):
        read(path, data="a")
    assert read(path, "lfp", data="a").modalities["lfp"].data.shape == (20, 2)


def test_several_modalities_ask_for_one(npz: Any) -> None:
    path = npz(lfp=wave(20, 2), emg=wave(20, 3), rate=1.0)
    with pytest.raises(ValueError, match="may hold 'emg', 'lfp'; pass modality= to choose"):
        read(path)
    assert read(path, data="lfp").modalities["lfp"].data.shape == (20, 2)
    assert read(path, "emg").behaviour["lfp"].data.shape == (20, 2)


def test_other_forms_of_the_samples_are_left_out(npz: Any) -> None:
    recording = read(npz(dff=wave(20, 2), zscored=wave(20, 2), rate=1.0))
    assert recording.provenance["left_out"] == ["zscored"]
    named = read(npz(dff=wave(20, 2), zscored=wave(20, 2), rate=1.0), behaviour=["zscored"])
    assert named.behaviour["zscored"].data.shape == (20, 2)


def test_text_for_each_sample_becomes_intervals(npz: Any) -> None:
    recording = read(npz(lfp=wave(6, 1), rate=2.0, state=list("aabbba")))
    state = recording.behaviour["state"]
    assert state.start.tolist() == [0.0, 1.0, 2.5]
    assert state.end.tolist() == [1.0, 2.5, 3.0]
    assert state.columns["label"].tolist() == ["a", "b", "a"]


def test_a_behaviour_without_a_clock_is_an_error(npz: Any) -> None:
    with pytest.raises(ValueError, match="'odd' cannot be a behaviour: there is no clock"):
        read(npz(lfp=wave(20, 2), rate=1.0, odd=np.arange(7)), behaviour=["odd"])


def test_no_clock_is_an_error_that_names_the_argument(npz: Any) -> None:
    with pytest.raises(ValueError, match=r"no time stamps for 'lfp' of 20 samples.*pass rate="):
        read(npz(lfp=wave(20, 2)))
    with pytest.raises(ValueError, match=r"'lfp' has shape \(20, 2\) but 'clock' has 7 time"):
        read(npz(lfp=wave(20, 2), clock=np.arange(7)), times="clock")
    with pytest.raises(ValueError, match="'lfp' has 20 samples but 'clock' has 2 time stamps"):
        read(npz(lfp=wave(20, 2), clock=np.arange(2)), times="clock", axes="time channel")


def test_trials_need_a_regular_clock(npz: Any) -> None:
    path = npz(lfp=wave(3, 4), time=np.array([0.0, 1.0, 5.0, 6.0]))
    with pytest.raises(ValueError, match="trials need a regular clock, 'time' is not"):
        read(path, axes="trial time")


def test_an_irregular_clock_is_kept_and_its_gap_named(npz: Any, read: Callable[..., Any]) -> None:
    t = np.r_[np.arange(10), 20.0 + np.arange(10)] / 10
    recording, told = read(npz(lfp=wave(20, 1), time=t, state=["a"] * 15 + ["b"] * 5))
    assert recording.modalities["lfp"].times.tolist() == t.tolist()
    assert "largest gap is 1.1 s, after 0.9 s" in told
    np.testing.assert_allclose(recording.behaviour["state"].end, [2.5, 3.0])


def test_time_stamps_out_of_order_are_an_error_or_repaired(
    npz: Any, read: Callable[..., Any]
) -> None:
    path = npz(lfp=np.arange(5.0), time=np.array([0.0, 0.2, 0.1, 0.2, 0.3]), speed=np.arange(5))
    with pytest.raises(ValueError, match=r"got 0.1 after 0.2 at index 2; repair=True sorts"):
        read(path)
    recording, told = read(path, repair=True)
    lfp = recording.modalities["lfp"]
    assert lfp.data.ravel().tolist() == [0.0, 2.0, 1.0, 4.0]
    assert lfp.rate == 10.0
    assert recording.behaviour["speed"].data.ravel().tolist() == [0, 2, 1, 4]
    assert "0 not finite and 1 repeated left out, 1 out of order sorted" in told


def test_missing_time_stamps_are_an_error_or_left_out(npz: Any, read: Callable[..., Any]) -> None:
    path = npz(lfp=np.arange(4.0), time=np.array([0.0, np.nan, 0.2, 0.4]))
    with pytest.raises(ValueError, match="got 1 without, the first at index 1; repair=True"):
        read(path)
    assert read(path, repair=True)[0].modalities["lfp"].data.ravel().tolist() == [0.0, 2.0, 3.0]


def test_repair_of_good_time_stamps_changes_nothing(npz: Any) -> None:
    path = npz(lfp=np.arange(4.0), time=np.arange(4.0))
    assert read(path, repair=True).modalities["lfp"].rate == 1.0


def test_nan_and_infinite_samples_are_kept_and_not_valid(npz: Any) -> None:
    x = wave(10, 2)
    x[3, 0], x[4, 1] = np.nan, np.inf
    lfp = read(npz(lfp=x, rate=1.0)).modalities["lfp"]
    np.testing.assert_array_equal(lfp.data, x)
    assert np.argwhere(~lfp.valid).tolist() == [[3, 0], [4, 1]]


def test_a_silent_unit_is_data(npz: Any) -> None:
    counts = np.c_[np.arange(9), np.zeros(9, int)]
    assert read(npz(spikes=counts, rate=50.0)).modalities["spike"].valid is None


def test_one_npy_array_is_a_recording(tmp_path: Path) -> None:
    np.save(tmp_path / "eeg.npy", wave(20, 2))
    assert read(tmp_path / "eeg.npy", rate=10.0).modalities["eeg"].data.shape == (20, 2)
    np.save(tmp_path / "odd.npy", wave(20, 2))
    assert read(tmp_path / "odd.npy", "lfp", rate=10.0).modalities["lfp"].rate == 10.0


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.mat", "a.h5"])
def test_a_damaged_file_is_named_with_its_size(tmp_path: Path, name: str) -> None:
    pytest.importorskip("h5py")
    path = tmp_path / name
    path.write_bytes(b"\x93NUMPY\x01\x00 not one")
    with pytest.raises(ValueError, match=r"\(16 bytes\) is truncated or not"):
        read(path, "lfp")


def test_python_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", lfp=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"not an \.npz file of plain arrays"):
        read(tmp_path / "a.npz")


def test_matlab_structures_and_cells_are_flattened(tmp_path: Path) -> None:
    names = np.array(["Cz", "Oz"], dtype=object)
    scipy.io.savemat(
        tmp_path / "a.mat",
        {
            "rec": {"eeg": wave(20, 2), "fs": 10.0, "channels": names},
            "trials": np.array([{"a": 1}, {"a": 2}]),
            "mixed": np.array([np.zeros(2), "x"], dtype=object),
        },
    )
    eeg = read(tmp_path / "a.mat").modalities["eeg"]
    assert eeg.channels == ("Cz", "Oz")
    np.testing.assert_array_equal(eeg.data, wave(20, 2))


def test_matlab_7_3_axes_are_turned_back(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["lfp"] = wave(20, 2).T  # MATLAB stores columns first
        file["fs"] = np.array([[10.0]])
        file["who"] = np.array([[ord(c)] for c in "rat7"], dtype=np.uint16)
        file["who"].attrs["MATLAB_class"] = np.bytes_("char")
        file["#refs#/a"] = np.zeros(3)
    recording = read(tmp_path / "a.mat")
    np.testing.assert_array_equal(recording.modalities["lfp"].data, wave(20, 2))
    assert recording.provenance["who"] == "rat7"
    assert recording.provenance["format"] == "MAT 7.3"


def test_hdf5_arrays_are_named_by_their_path(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw/lfp"] = wave(20, 2)
        file["raw/rate"] = 10.0
        file["video/speed"] = np.arange(20.0)
        file["about"] = "text"
        file["tag"] = np.bytes_("b")
    recording = read(tmp_path / "a.h5")
    assert recording.modalities["lfp"].rate == 10.0
    assert recording.behaviour["speed"].rate == 10.0
    assert (recording.provenance["about"], recording.provenance["tag"]) == ("text", "b")


def windows(**more: Any) -> dict[str, Any]:
    x = wave(3, 5, 2)
    starts = np.array([1.0, 0.0, 2.0])
    return {
        "x": x,
        "times": starts,
        "channels": ["a", "b"],
        "rate": 10.0,
        "unit": "count",
        "subject": "s7",
        "session": "2",
        "y": np.array([7, 8, 9]),
        "meta": json.dumps({"modality": "lfp", "species": "rat"}),
    } | more


def test_windows_go_back_where_they_were_cut(npz: Any) -> None:
    recording = read(npz(**windows()))
    lfp = recording.modalities["lfp"]
    x = wave(3, 5, 2)
    np.testing.assert_array_equal(lfp.data[:5], x[1])
    np.testing.assert_array_equal(lfp.data[10:15], x[0])
    assert not lfp.valid[5:10].any()
    assert (recording.subject, recording.session, recording.species) == ("s7", "2", "rat")
    assert recording.behaviour["window"].columns["y"].tolist() == [8, 7, 9]


def test_windows_with_sample_times_and_behaviour(npz: Any) -> None:
    starts = np.array([0.0, 0.5, 1.0])
    path = npz(
        **windows(
            times=starts[:, None] + np.arange(5) / 10,
            y=np.arange(6.0).reshape(3, 2, 1),
            y_times=starts[:, None] + [0.0, 0.25],
            y_names=["speed"],
        )
    )
    recording = read(path)
    np.testing.assert_array_equal(recording.modalities["lfp"].data, wave(3, 5, 2).reshape(15, 2))
    assert recording.behaviour["speed"].rate == 4.0
    assert recording.behaviour["speed"].data.ravel().tolist() == list(range(6))


def test_windows_of_an_irregular_clock_keep_their_times(npz: Any) -> None:
    times = np.array([[0.0, 0.1, 0.4], [0.4, 0.9, np.nan]])
    path = npz(**windows(x=wave(2, 3, 2), times=times, rate=np.nan, y=np.arange(2)))
    lfp = read(path).modalities["lfp"]
    assert lfp.times.tolist() == [0.0, 0.1, 0.4, 0.9]
    np.testing.assert_array_equal(lfp.data[:3], wave(2, 3, 2)[0])


def test_windows_with_exact_spikes_give_these(npz: Any) -> None:
    path = npz(
        **windows(
            event_times=np.array([0.1, 0.3]),
            event_units=np.array([1, 0]),
            meta=json.dumps({"modality": "spike"}),
        )
    )
    events = read(path).modalities["spike"]
    assert events.times.tolist() == [0.1, 0.3]
    assert events.units == ("a", "b")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"times": np.zeros(7)}, r"times needs shape \(3,\)"),
        ({"meta": "{"}, "meta is not valid JSON"),
        ({"meta": "[]"}, "meta needs a JSON object, got list"),
        ({"meta": '{"modality": "odour"}'}, "names the modality 'odour', which is unknown"),
    ],
)
def test_windows_that_do_not_fit_are_an_error(npz: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(npz(**windows(**more)))
