"""Windows and counts against libraries that read the same data."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from neuros_core import Events, Recording, Species
from neuros_data import Store

Make, Times = Callable[..., Store], Callable[..., list[float]]
Report = Callable[[str, str, float, float], None]
Compare = Callable[[Callable[[int], np.ndarray], str, float], None]
RATE, CHANNELS, TIME, BATCH = 256.0, 64, 256, 64
SECONDS = 600
N = int(RATE) * SECONDS


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((N, CHANNELS), np.float32)


@pytest.fixture
def compare(
    samples: np.ndarray,
    tmp_path: Path,
    one_recording: Make,
    best_times: Times,
    report: Report,
) -> Compare:
    """Time batches of random windows; the peer reads one window a call, into one batch."""
    view = one_recording(tmp_path / "ours", samples).windows(window=TIME / RATE)
    buffers = view.read_batch(np.arange(BATCH))
    windows = np.random.default_rng(0).integers(0, N // TIME, BATCH)
    batch = np.empty((BATCH, TIME, CHANNELS), np.float32)

    def against(peer: Callable[[int], np.ndarray], name: str, bar: float) -> None:
        def ours() -> np.ndarray:
            return view.read_batch(windows, out=buffers)["eeg"]

        def theirs() -> np.ndarray:
            for row, window in enumerate(windows.tolist()):
                batch[row] = peer(window)
            return batch

        expected = samples.reshape(-1, TIME, CHANNELS)[windows]
        np.testing.assert_allclose(ours(), expected, rtol=1e-6)
        np.testing.assert_allclose(theirs(), expected, rtol=1e-5, atol=1e-6)
        gc.disable()
        ours_s, peer_s = best_times(ours, theirs, repeats=9)
        gc.enable()
        report("random 256x64 windows, float32", name, peer_s / ours_s, bar)
        assert peer_s / ours_s >= bar

    return against


def test_windows_against_temporaldata(
    compare: Compare, samples: np.ndarray, tmp_path: Path
) -> None:
    temporaldata = pytest.importorskip("temporaldata")
    h5py = pytest.importorskip("h5py")
    series = temporaldata.RegularTimeSeries(
        eeg=samples, sampling_rate=RATE, domain_start=0.0, domain="auto"
    )
    with h5py.File(tmp_path / "t.h5", "w") as file:
        series.to_hdf5(file)
    with h5py.File(tmp_path / "t.h5") as file:
        lazy = temporaldata.LazyRegularTimeSeries.from_hdf5(file)
        step = TIME / RATE
        compare(
            lambda k: lazy.slice(k * step, (k + 1) * step).eeg,
            f"temporaldata {version('temporaldata')}, lazy",
            12,
        )


def test_windows_against_zarr(compare: Compare, samples: np.ndarray, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(
        str(tmp_path / "z"), shape=samples.shape, chunks=(1024, CHANNELS), dtype="f4"
    )
    array[:] = samples
    peer = f"zarr {zarr.__version__}, chunks of 1024"
    compare(lambda k: array[k * TIME : (k + 1) * TIME], peer, 20)


def test_windows_against_one_npz_each(
    compare: Compare, samples: np.ndarray, tmp_path: Path
) -> None:
    for k in range(N // TIME):
        np.savez(tmp_path / f"{k}.npz", x=samples[k * TIME : (k + 1) * TIME])

    def peer(k: int) -> np.ndarray:
        with np.load(tmp_path / f"{k}.npz") as file:
            return file["x"]

    compare(peer, f"one npz each, numpy {np.__version__}", 4)


def test_windows_against_a_fif_file_that_is_not_loaded(
    compare: Compare, samples: np.ndarray, tmp_path: Path
) -> None:
    """What braindecode's windows read from raws with preload=False; it needs torchaudio itself."""
    mne = pytest.importorskip("mne")
    info = mne.create_info(CHANNELS, RATE, "eeg")
    path = tmp_path / "a_raw.fif"
    mne.io.RawArray(samples.T, info, verbose="error").save(path, fmt="single", verbose="error")
    raw = mne.io.read_raw_fif(path, preload=False, verbose="error")
    peer = f"mne {mne.__version__}, FIF, preload=False"
    compare(lambda k: raw[:, k * TIME : (k + 1) * TIME][0].T, peer, 10)


def test_windows_from_a_cold_cache_keep_up_with_a_plain_map(
    samples: np.ndarray,
    tmp_path: Path,
    one_recording: Make,
    best_times: Times,
    report: Report,
) -> None:
    store = one_recording(tmp_path / "store", np.tile(samples, (4, 1)))
    file = tmp_path / "store" / "recordings" / "r" / "eeg.data.npy"
    # So many that opening the store does not count.
    windows = np.random.default_rng(0).permutation(4 * N // TIME)[:2048]
    target = np.empty((len(windows), TIME, CHANNELS), np.float32)

    def drop() -> None:
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)

    # Not from a first reading: an open map would keep its pages.
    reused = {"eeg": np.empty_like(target)}

    def ours() -> None:
        drop()
        opened = Store(type(store.files)(store.path), store.manifest)
        opened.windows(window=TIME / RATE).read_batch(windows, out=reused)

    def peer() -> None:
        drop()
        mapped = np.load(file, mmap_mode="r")
        for row, window in enumerate(windows.tolist()):
            target[row] = mapped[window * TIME : (window + 1) * TIME]

    ours_s, peer_s = best_times(ours, peer, repeats=25)
    report(
        "random 256x64 windows, pages dropped", f"numpy {np.__version__} map", peer_s / ours_s, 0.9
    )
    assert peer_s / ours_s >= 0.9


def test_counts_against_pynapple(tmp_path: Path, best_times: Times, report: Report) -> None:
    nap = pytest.importorskip("pynapple")
    draw = np.random.default_rng(2)
    n_units, seconds, rate = 500, 3600.0, 2.0
    times = np.sort(draw.uniform(0, seconds, int(n_units * seconds * rate)))
    units = draw.integers(0, n_units, len(times)).astype(np.int32)
    events = Events(times, units, n_units, duration=seconds)
    store = Store.create(tmp_path / "store")
    store.add(Recording("r", "s", "1", Species.MOUSE, {"spike": events}))
    view = store.windows(window=2.0, bin=0.02)
    group = nap.TsGroup({u: nap.Ts(times[units == u]) for u in range(n_units)})
    window = 700
    epoch = nap.IntervalSet(2.0 * window, 2.0 * (window + 1))

    def ours() -> np.ndarray:
        return view.read_batch([window])["spike"][0]

    def peer() -> np.ndarray:
        return group.count(0.02, ep=epoch).values

    assert np.abs(ours() - peer()).sum() <= 2  # an edge that the two round apart
    ours_s, peer_s = best_times(ours, peer, repeats=9)
    what = "2 s of 500 units of an hour in 20 ms bins"
    report(what, f"pynapple {version('pynapple')}, count", peer_s / ours_s, 3)
    assert peer_s / ours_s >= 3


def test_an_epoch_over_a_large_store_needs_little_memory(tmp_path: Path, report: Report) -> None:
    """No peer: 1.2 GB are read in random order by a process that may grow by 300 MB."""
    script = Path(__file__).with_name("epoch_memory.py")
    limit_mb = 300.0
    command = [sys.executable, str(script), str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown_mb = float(done.stdout)
    report("one epoch over 1.2 GB: MB grown", "300 MB", limit_mb / grown_mb, 1.0)
    assert grown_mb <= limit_mb
