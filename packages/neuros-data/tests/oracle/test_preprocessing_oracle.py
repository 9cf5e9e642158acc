"""Steps of preparation beside MNE-Python, nilearn and NumPy, with the same settings."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neuros_core import Events, Recording, Signal, Species
from neuros_data import Store
from neuros_data.acquisition.fmri import Fmri, FmriSettings
from neuros_data.acquisition.source import SessionInfo
from neuros_data.preprocessing import AverageReference, Bandpass, CleanBold, Notch
from neuros_data.preprocessing.fmri import MOTION

pytestmark = pytest.mark.oracle


@pytest.mark.slow  # importing MNE-Python takes seconds
@pytest.mark.parametrize(
    ("low", "high", "rate"),
    [(0.5, 79.0, 160.0), (1.0, 40.0, 250.0), (None, 30.0, 500.0), (2.0, None, 200.0)],
)
def test_fir_filters_are_those_of_mne(low: float | None, high: float | None, rate: float) -> None:
    mne_filter = pytest.importorskip("mne.filter")
    x = np.random.default_rng(0).normal(size=(5000, 3)).cumsum(axis=0)
    expected = mne_filter.filter_data(x.T.copy(), rate, low, high, verbose="error").T
    found = Bandpass(low, high).apply(Signal(x, rate=rate)).data
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9 * np.abs(expected).max())


def test_iir_filters_are_those_of_mne_with_the_same_coefficients() -> None:
    mne_filter = pytest.importorskip("mne.filter")
    x = np.random.default_rng(1).normal(size=(8000, 2))
    step = Bandpass(1.0, 40.0, kind="iir")
    sos = step.coefficients(250.0)
    parameters = {"sos": sos, "output": "sos", "padlen": 27}
    expected = mne_filter.filter_data(
        x.T.copy(), 250.0, 1.0, 40.0, method="iir", iir_params=parameters, verbose="error"
    ).T
    found = step.apply(Signal(x, rate=250.0)).data
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)


def test_the_notch_and_the_reference_are_those_of_scipy_and_mne() -> None:
    sp = pytest.importorskip("scipy.signal")
    mne = pytest.importorskip("mne")
    x = np.random.default_rng(2).normal(size=(3000, 4))
    b, a = sp.iirnotch(60.0, 30.0, fs=160.0)
    expected = sp.sosfiltfilt(sp.tf2sos(b, a), x, axis=0)
    found = Notch(60.0).apply(Signal(x, rate=160.0)).data
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)
    raw = mne.io.RawArray(x.T.copy(), mne.create_info(4, 160.0, "eeg"), verbose="error")
    referenced = raw.set_eeg_reference("average", verbose="error").get_data().T
    np.testing.assert_allclose(
        AverageReference().apply(Signal(x, rate=160.0)).data, referenced, rtol=1e-7, atol=1e-12
    )


@pytest.mark.slow  # importing nilearn takes seconds
@pytest.mark.parametrize("scrub", [False, True])
def test_cleaned_bold_is_that_of_nilearn(scrub: bool) -> None:
    nilearn = pytest.importorskip("nilearn.signal")
    rng = np.random.default_rng(3)
    n = 250
    x = rng.normal(size=(n, 5)).cumsum(axis=0)
    table = {name: rng.normal(size=n).cumsum() for name in (*MOTION, "white_matter", "csf")}
    moved = np.zeros(n)
    moved[[30, 31, 120]] = 2.0
    table["framewise_displacement"] = moved
    found = CleanBold(motion=6, fd=0.5 if scrub else None).apply(Signal(x, rate=0.5), table).data
    kept = np.flatnonzero(moved <= 0.5) if scrub else np.arange(n)
    columns = np.stack([table[k] for k in (*MOTION, "white_matter", "csf")], axis=1)
    expected = nilearn.clean(
        x.copy(),
        detrend=True,
        standardize=None,
        standardize_confounds=False,
        confounds=columns,
        sample_mask=kept if scrub else None,
        low_pass=0.1,
        high_pass=0.008,
        t_r=2.0,
    )
    np.testing.assert_allclose(found[kept], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.slow  # importing nilearn takes seconds
def test_parcels_and_their_cleaning_are_those_of_nilearns_masker(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    maskers = pytest.importorskip("nilearn.maskers")
    rng = np.random.default_rng(5)
    labels = np.arange(1, 101).reshape(10, 10, 1).repeat(10, axis=2)
    labels[labels == 3] = 0
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.int16), affine), tmp_path / "atlas.nii.gz")
    volumes = nibabel.Nifti1Image(rng.normal(size=(10, 10, 10, 120)) * 10 + 1000, affine)
    nibabel.save(volumes, tmp_path / "r_bold.nii.gz")
    lines = [f"{i + 1}\t{i + 1}\t0\t0\t0\t0" for i in range(100)]
    (tmp_path / "atlas.txt").write_text("\n".join(lines))
    table = rng.normal(scale=0.1, size=(120, 8)).cumsum(axis=0)
    names = (*MOTION, "white_matter", "csf")
    np.savetxt(
        tmp_path / "r_confounds.txt", table, delimiter="\t", header="\t".join(names), comments=""
    )
    settings = FmriSettings(n_rois=100, clean=CleanBold(motion=6, fd=None))
    prepared = Fmri(settings).prepare(SessionInfo("r", "s", "1"), tmp_path, settings)
    masker = maskers.NiftiLabelsMasker(
        tmp_path / "atlas.nii.gz",
        detrend=True,
        low_pass=0.1,
        high_pass=0.008,
        t_r=2.0,
        standardize=None,
        standardize_confounds=False,
    )
    expected = masker.fit_transform(tmp_path / "r_bold.nii.gz", confounds=table)
    found = prepared.recording.modalities["fmri"]
    assert isinstance(found, Signal)
    there = [i for i in range(100) if i != 2]
    np.testing.assert_allclose(found.data[:, there], expected, rtol=1e-6, atol=1e-8)
    assert np.isnan(found.data[:, 2]).all()


def test_binned_counts_are_those_of_numpy_and_an_edge_belongs_to_the_later_bin(
    make_store: Callable[..., Store],
) -> None:
    rng = np.random.default_rng(4)
    # A third of the spikes lie on an edge exactly.
    times = np.sort(np.concatenate([rng.uniform(0, 10, 600), rng.integers(0, 500, 300) * 0.02]))
    units = rng.integers(0, 4, len(times))
    spikes = Events(times, units, 4, duration=10.0)
    store = make_store(Recording("r", "s", "1", Species.MOUSE, {"spike": spikes}))
    found = store.windows(window=2.0, bin=0.02).read_batch(np.arange(5))["spike"]
    counts = np.concatenate(list(found))
    edges = np.arange(502) * 0.02
    for unit in range(4):
        # One bin more: NumPy closes its last bin on the right.
        expected = np.histogram(times[units == unit], edges)[0][:500]
        np.testing.assert_array_equal(counts[:, unit], expected)
    assert counts.sum() == (times < 10.0).sum()
