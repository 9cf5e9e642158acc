"""The store: whole appends, lazy reads, bounded handles, workers, a full disk."""

import copy
import dataclasses
import errno
import multiprocessing
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from neuros_core import Events, Intervals, Recording, RunManifest, Signal, Species
from neuros_data import (
    CorruptStoreError,
    DiskFullError,
    FormatVersionError,
    Quantization,
    Store,
    Windows,
    open_store,
)


def lfp(data: np.ndarray, **more: object) -> Recording:
    return Recording("r", "s", "1", Species.RAT, {"lfp": Signal(data, rate=10.0)}, **more)


def test_a_recording_comes_back_as_it_was(
    ramp_store: Store, ramp: Callable[..., Recording]
) -> None:
    wanted = ramp()
    found = open_store(ramp_store.path).recordings["ramp"]
    for field in ("id", "subject", "session", "species", "provenance", "duration"):
        assert getattr(found, field) == getattr(wanted, field)
    signal = found.modalities["lfp"]
    np.testing.assert_array_equal(signal.data, wanted.modalities["lfp"].data)
    assert (signal.rate, signal.unit, signal.channels) == (100.0, "V", ("0", "1"))
    assert isinstance(signal.data.base, np.memmap)
    events = found.modalities["spike"]
    np.testing.assert_array_equal(events.times, wanted.modalities["spike"].times)
    np.testing.assert_array_equal(events.unit_ids, wanted.modalities["spike"].unit_ids)
    assert (events.n_units, events.duration) == (3, 10.0)
    np.testing.assert_array_equal(events.table["depth"], [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(found.behaviour["trial"].columns["code"], np.arange(10) % 3)


def test_unit_rows_find_the_spikes_of_one_unit(ramp_store: Store) -> None:
    part = ramp_store.files.meta("ramp")["modalities"]["spike"]
    read = {k: ramp_store.files.array("ramp", e) for k, e in part["arrays"].items()}
    for unit in range(3):
        mine = read["order"][read["offsets"][unit] : read["offsets"][unit + 1]]
        np.testing.assert_array_equal(mine, np.flatnonzero(read["units"] == unit))


def test_irregular_clocks_text_columns_and_arrays_of_provenance_come_back(
    make_store: Callable[..., Store],
) -> None:
    times = np.array([0.0, 0.4, 1.1])
    recording = Recording(
        "r.1",
        "s",
        "1",
        Species.WORM,
        {"calcium": Signal(np.eye(3), times=times, channels=("a", "b", "c"))},
        {"odour": Intervals(np.array([0.5]), np.array([0.9]), {"name": np.array(["IAA"])})},
        {"connectome": np.eye(3, dtype=np.int32), "note": "x"},
    )
    found = make_store(recording).recordings["r.1"]
    np.testing.assert_array_equal(found.modalities["calcium"].times, times)
    assert found.behaviour["odour"].columns["name"].tolist() == ["IAA"]
    np.testing.assert_array_equal(found.provenance["connectome"], np.eye(3))
    assert found.provenance["note"] == "x"


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        (np.zeros((4, 1), np.float64), "<f4"),
        (np.zeros((4, 1), np.float32), "<f4"),
        (np.zeros((4, 1), np.uint8), "<i2"),
        (np.full((4, 1), 40_000, np.uint16), "<i4"),
    ],
)
def test_the_stored_type_follows_the_samples(
    data: np.ndarray, stored: str, make_store: Callable[..., Store]
) -> None:
    store = make_store(lfp(data))
    assert store.files.meta("r")["modalities"]["lfp"]["arrays"]["data"]["dtype"] == stored


def test_double_precision_is_kept_on_request(make_store: Callable[..., Store]) -> None:
    data = np.full((4, 1), 1 / 3)
    store = make_store(lfp(data), float64=["lfp"])
    np.testing.assert_array_equal(store.recordings["r"].modalities["lfp"].data, data)


def test_scaled_integers_are_decoded(make_store: Callable[..., Store]) -> None:
    data = np.array([[1e-6, 2.0], [-3e-6, 2.5]])
    store = make_store(
        Recording("r", "s", "1", Species.RAT, {"eeg": Signal(data, rate=10.0)}),
        quantize={"eeg": Quantization(np.array([1e-6, 0.5]), np.array([0.0, 2.0]))},
    )
    part = store.files.meta("r")["modalities"]["eeg"]
    assert part["arrays"]["data"]["dtype"] == "<i2"
    assert store.files.array("r", part["arrays"]["data"]).tolist() == [[1, 0], [-3, 1]]
    np.testing.assert_allclose(store.recordings["r"].modalities["eeg"].data, data, rtol=1e-6)


def test_samples_not_measured_are_marked_and_kept(make_store: Callable[..., Store]) -> None:
    data = np.arange(6.0).reshape(3, 2)
    data[1, 0] = np.nan
    valid = np.ones((3, 2), bool)
    valid[2, 1] = False
    signal = Signal(data, rate=10.0, valid=valid)
    store = make_store(Recording("r", "s", "1", Species.RAT, {"lfp": signal}))
    found = store.recordings["r"].modalities["lfp"]
    np.testing.assert_array_equal(found.data, data)
    np.testing.assert_array_equal(found.valid, valid & np.isfinite(data))


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b"])
def test_an_id_that_cannot_name_a_folder_is_refused(
    name: str, make_store: Callable[..., Store], ramp: Callable[..., Recording]
) -> None:
    if name:
        with pytest.raises(ValueError, match="id names its folder and needs letters"):
            make_store(ramp(name))
    store = make_store()
    with pytest.raises(ValueError, match="split's name needs letters"):
        store.files.write_split(name, {})


def test_an_id_is_taken_once(ramp_store: Store, ramp: Callable[..., Recording]) -> None:
    with pytest.raises(ValueError, match="already has a recording 'ramp'"):
        ramp_store.add(ramp())


def test_a_lattice_for_an_unknown_signal_is_refused(
    ramp_store: Store, ramp: Callable[..., Recording]
) -> None:
    with pytest.raises(ValueError, match=r"has no \['eeg'\]; it has \['lfp'"):
        ramp_store.add(ramp("b"), quantize={"eeg": Quantization(1.0)})


def test_provenance_that_json_cannot_hold_leaves_nothing_behind(
    ramp_store: Store, ramp: Callable[..., Recording]
) -> None:
    bad = dataclasses.replace(ramp("b"), provenance={"x": object()})
    with pytest.raises(TypeError, match="provenance needs arrays and what JSON can hold"):
        ramp_store.add(bad)
    assert [p.name for p in (ramp_store.path / "recordings").iterdir()] == ["ramp"]


def test_unknown_recordings_and_splits_are_named(ramp_store: Store) -> None:
    with pytest.raises(KeyError, match=r"no recording 'x' in .*; it has ramp"):
        ramp_store.recordings["x"]
    with pytest.raises(KeyError, match=r"no split 'x' in .*; it has none"):
        ramp_store.split("x")
    with pytest.raises(TypeError, match="recordings needs a list of ids, got the text 'ramp'"):
        ramp_store.select("ramp")
    assert "ramp" in ramp_store.recordings
    assert "x" not in ramp_store.recordings


def test_a_selection_shows_some_recordings(
    make_store: Callable[..., Store], ramp: Callable[..., Recording]
) -> None:
    store = make_store(ramp("a"), ramp("b"), ramp("c"))
    chosen = store.select(["c", "a"])
    assert list(chosen.recordings) == ["a", "c"]
    assert repr(chosen).endswith("2 recordings)")
    assert chosen.content_hash != store.content_hash


def test_the_content_hash_does_not_depend_on_the_order_of_appends(
    make_store: Callable[..., Store], ramp: Callable[..., Recording]
) -> None:
    a, b = ramp("a"), ramp("b", offset=0.5)
    assert make_store(a, b).content_hash == make_store(b, a).content_hash


def test_a_new_store_needs_an_empty_folder(ramp_store: Store) -> None:
    with pytest.raises(ValueError, match="needs an empty or absent folder"):
        Store.create(ramp_store.path)


def test_a_manifest_says_what_made_the_store(tmp_path: Path) -> None:
    run = RunManifest(kind="store", seed=3)
    Store.create(tmp_path / "s", source="here", licence="MIT", run=run)
    manifest = open_store(tmp_path / "s").manifest
    assert RunManifest.from_dict(manifest["run"]) == run
    assert (manifest["source"], manifest["licence"]) == ("here", "MIT")
    assert "numpy" in Store.create(tmp_path / "t").manifest["run"]["versions"]


def test_what_is_not_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptStoreError, match="is not a folder"):
        open_store(tmp_path / "absent")
    with pytest.raises(CorruptStoreError, match=r"manifest\.json is missing"):
        open_store(tmp_path)
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CorruptStoreError, match="does not describe a store"):
        open_store(tmp_path)


def test_a_store_of_a_newer_format_is_refused(ramp_store: Store) -> None:
    for name in ("manifest.json", "recordings/ramp/meta.json"):
        path = ramp_store.path / name
        old = path.read_text(encoding="utf-8")
        path.write_text(old.replace('"schema": "1.0"', '"schema": "7.1"'), encoding="utf-8")
        with pytest.raises(FormatVersionError, match=f"{name.split('/')[-1]} has format 7.1"):
            open_store(ramp_store.path).recordings["ramp"]
        path.write_text(old, encoding="utf-8")


def test_metadata_without_its_fields_is_named(ramp_store: Store) -> None:
    (ramp_store.path / "recordings/ramp/meta.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CorruptStoreError, match=r"meta\.json lacks behaviour, id, modalities"):
        open_store(ramp_store.path).recordings["ramp"]


def test_events_are_no_behaviour(ramp_store: Store) -> None:
    path = ramp_store.path / "recordings/ramp/meta.json"
    meta = ramp_store.files.meta("ramp")
    from neuros_data.format import write_json

    write_json(path, {**meta, "behaviour": {"x": meta["modalities"]["spike"]}})
    with pytest.raises(CorruptStoreError, match="behaviour 'x' needs a signal or intervals"):
        open_store(ramp_store.path).recordings["ramp"]


def test_few_arrays_and_metas_stay_open(
    make_store: Callable[..., Store],
    monkeypatch: pytest.MonkeyPatch,
    ramp: Callable[..., Recording],
) -> None:
    monkeypatch.setattr("neuros_data._files._OPEN_ARRAYS", 2)
    monkeypatch.setattr("neuros_data._files._OPEN_METAS", 2)
    store = make_store(*(ramp(f"r{i}", offset=i) for i in range(4)))
    for _ in range(2):
        for i in range(4):
            assert store.recordings[f"r{i}"].modalities["lfp"].data[0, 0] == i
    assert len(store.files._arrays) <= 2
    assert len(store.files._metas) <= 2


def test_a_copied_store_and_view_open_their_own_files(ramp_store: Store) -> None:
    view = ramp_store.windows(window=1.0, modalities=["lfp"])
    assert view.read_batch([3])["lfp"][0, 0, 0] == 300.0
    # deepcopy goes through the same hooks as pickle.
    again, store = copy.deepcopy((view, ramp_store))
    assert again._readers == {}
    assert store.files._arrays == {}
    assert again.read_batch([3])["lfp"][0, 0, 0] == 300.0
    assert store.recordings["ramp"].modalities["lfp"].data[300, 0] == 300.0


@pytest.mark.slow  # starts processes
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_same(method: str, ramp_store: Store) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{method} is not available here")
    view = ramp_store.windows(window=1.0, modalities=["lfp"])
    wanted = view.read_batch([3])["lfp"]
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found = pool.submit(Windows.read_batch, view, [3]).result(timeout=60)
    np.testing.assert_array_equal(found["lfp"], wanted)


def test_a_full_disk_leaves_the_store_as_it_was(
    ramp_store: Store, monkeypatch: pytest.MonkeyPatch, ramp: Callable[..., Recording]
) -> None:
    written = []

    def fail(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(DiskFullError, match=r"no space left: .* needs about 0\.0 MB more"):
        ramp_store.add(ramp("b"))
    monkeypatch.undo()
    assert [p.name for p in (ramp_store.path / "recordings").iterdir()] == ["ramp"]
    ramp_store.add(ramp("b"))
    assert list(open_store(ramp_store.path).recordings) == ["b", "ramp"]


def test_other_system_errors_pass_and_leave_nothing(
    ramp_store: Store, monkeypatch: pytest.MonkeyPatch, ramp: Callable[..., Recording]
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        ramp_store.add(ramp("b"))
    assert [p.name for p in (ramp_store.path / "recordings").iterdir()] == ["ramp"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_limit_on_file_size_counts_as_a_full_disk(ramp_store: Store) -> None:
    big = lfp(np.zeros((100_000, 4)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DiskFullError, match=r"needs about 3\.2 MB more"):
            ramp_store.add(big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(open_store(ramp_store.path).recordings) == ["ramp"]


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, neuros_data\n"
        "heavy = {'torch', 'mne', 'pandas', 'h5py', 'scipy', 'click'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_listed_in_order() -> None:
    import neuros_data

    assert neuros_data.__all__ == sorted(neuros_data.__all__)
    assert all(hasattr(neuros_data, name) for name in neuros_data.__all__)
    assert neuros_data.__version__[0].isdigit()


def test_silent_units_are_kept(make_store: Callable[..., Store]) -> None:
    events = Events(np.zeros(0), np.zeros(0, np.int32), 4, duration=2.0)
    store = make_store(Recording("r", "s", "1", Species.RAT, {"spike": events}))
    assert store.recordings["r"].modalities["spike"].n_units == 4
    assert store.windows(window=1.0, bin=0.5).read_batch([1])["spike"].shape == (1, 2, 4)


def test_a_reader_of_a_large_store_hands_its_pages_back(
    make_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("resident pages are read from /proc")
    from neuros_data import _files

    monkeypatch.setattr(_files, "_RESIDENT", 10 << 20)
    monkeypatch.setattr(_files, "_READ_BETWEEN", 1 << 19)
    data = np.arange(3_000_000, dtype=np.float32)[:, None]
    store = make_store(Recording("r", "s", "1", "rat", {"lfp": Signal(data, rate=1000.0)}))
    view = store.windows(window=250.0)

    def resident_kb() -> int:
        lines = smaps.read_text().splitlines()
        file = str(store.path / "recordings" / "r" / "lfp.data.npy")
        starts = [i for i, line in enumerate(lines) if line.endswith(file)]
        assert starts
        parts = [line for i in starts for line in lines[i : i + 8] if line.startswith("Rss:")]
        return sum(int(part.split()[1]) for part in parts)

    for k in range(12):
        batch = view.read_batch([k])
        np.testing.assert_array_equal(
            batch["lfp"][0, :, 0], data[k * 250_000 : (k + 1) * 250_000, 0]
        )
        # 12 MB are mapped, a window has 1 MB, and its pages go with it.
        assert resident_kb() < 500
