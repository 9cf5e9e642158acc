"""Fractal estimators beside peer packages."""

import numpy as np
import pytest
import torch

from neuros_mechint.fractals import HiguchiFractalDimension, SpectralSlope

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def signals() -> np.ndarray:
    rng = np.random.default_rng(0)
    white = rng.standard_normal((8, 1003))
    return np.concatenate([white, white.cumsum(-1), white.cumsum(-1).cumsum(-1)])


# Not at k_max = 2: antropy adds 1e-9 to the denominator of its slope, a visible share of it there.
@pytest.mark.parametrize("k_max", [5, 10, 17])
def test_higuchi_equals_antropy(signals: np.ndarray, k_max: int) -> None:
    antropy = pytest.importorskip("antropy")
    expected = [antropy.higuchi_fd(x, kmax=k_max) for x in signals]
    found = HiguchiFractalDimension(k_max=k_max).compute(signals)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("k_max", [5, 10])
def test_higuchi_equals_neurokit(signals: np.ndarray, k_max: int) -> None:
    neurokit2 = pytest.importorskip("neurokit2")
    expected = [neurokit2.fractal_higuchi(x, k_max=k_max)[0] for x in signals[::4]]
    found = HiguchiFractalDimension(k_max=k_max).compute(signals[::4])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [1000, 1001])
@pytest.mark.parametrize("detrend", ["constant", "linear"])
def test_densities_equal_scipy(n: int, detrend: str) -> None:
    signal = pytest.importorskip("scipy.signal")
    x = 3 + np.random.default_rng(0).standard_normal((4, n)).cumsum(-1)
    common = {"fs": 250.0, "detrend": detrend}
    wide = (1.0, 125.0)
    slope = SpectralSlope(method="periodogram", freq_range=wide, **common)
    freqs, psd = signal.periodogram(x, **common)
    _compare(slope, x, freqs, psd)
    slope = SpectralSlope(method="hann", freq_range=wide, **common)
    _, psd = signal.periodogram(x, window="hann", **common)
    _compare(slope, x, freqs, psd)
    slope = SpectralSlope(method="welch", nperseg=200, freq_range=wide, **common)
    freqs, psd = signal.welch(x, nperseg=200, **common)
    _compare(slope, x, freqs, psd)


def _compare(slope: SpectralSlope, x: np.ndarray, freqs: np.ndarray, psd: np.ndarray) -> None:
    fit = slope.fit(x)
    keep = (freqs >= 1 - 1e-9) & (freqs <= 125 + 1e-9)
    np.testing.assert_allclose(fit.freqs, freqs[keep])
    np.testing.assert_allclose(fit.psd, psd[:, keep], rtol=1e-9)


@pytest.mark.parametrize(("n", "slack"), [(1000, 1.1), (4096, 1.2)])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_slope_is_as_accurate_as_specparam(n: int, slack: float, beta: float) -> None:
    specparam = pytest.importorskip("specparam")
    signal = pytest.importorskip("scipy.signal")
    rng = np.random.default_rng(1)
    freqs = np.fft.rfftfreq(4 * n)
    shape = (100, len(freqs))
    z = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    z[:, 0] = 0
    z[:, 1:] *= freqs[1:] ** (-beta / 2)
    x = np.fft.irfft(z, 4 * n)[:, :n]
    f, psd = signal.welch(x, fs=100.0, nperseg=256)
    theirs = []
    for spectrum in psd:
        model = specparam.SpectralModel(max_n_peaks=0, aperiodic_mode="fixed", verbose=False)
        model.fit(f, spectrum, freq_range=(0.4, 40.0))
        theirs.append(model.get_params("aperiodic", "exponent"))
    peer = np.sqrt(np.mean((np.array(theirs) - beta) ** 2))
    ours = SpectralSlope(method="auto").compute(torch.from_numpy(x)).numpy()
    assert np.sqrt(np.mean((ours - beta) ** 2)) <= slack * peer
