"""Bias and root-mean-square error of the estimators and of their peers, on the same draws."""

import importlib.util
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from neuros_mechint.fractals import (
    ColoredNoise,
    DetrendedFluctuationAnalysis,
    FractionalBrownianMotion,
    HiguchiFractalDimension,
    HurstExponent,
    SpectralSlope,
)

Array = NDArray[np.float64]
N_DRAWS = 400
HURST = (0.1, 0.2, 0.5, 0.8, 0.9)
FEW = (0.2, 0.5, 0.8)


def noise(n: int, hurst: float) -> Array:
    generator = torch.Generator().manual_seed(0)
    draw = FractionalBrownianMotion().increments
    return draw(n, hurst, batch=N_DRAWS, generator=generator, dtype=torch.float64)[:, 0].numpy()


def colored(n: int, beta: float) -> Array:
    generator = torch.Generator().manual_seed(0)
    draw = ColoredNoise().generate
    return draw(n, beta, N_DRAWS, generator=generator, dtype=torch.float64).numpy()


def report(
    what: str,
    who: str,
    truths: tuple[float, ...],
    estimate: Callable[[float], Array],
    bias: tuple[float, ...] = (),
    rmse: tuple[float, ...] = (),
    reason: str = "",
) -> list[float]:
    """Print one row, hold the bars, and return the root-mean-square errors.

    A bar of one number holds for all truths. With a reason it may be missed by as much again.
    """
    errors = [np.asarray(estimate(truth), dtype=float) for truth in truths]
    biases = [abs(float(e.mean())) for e in errors]
    sizes = [float(np.sqrt(np.mean(e**2))) for e in errors]
    cells = "; ".join(f"{e.mean():+.3f} {size:.3f}" for e, size in zip(errors, sizes, strict=True))
    bars, missed = [], False
    for name, got, bar in (("bias", biases, bias), ("RMSE", sizes, rmse)):
        limits = bar * len(truths) if len(bar) == 1 else bar
        if limits:
            bars.append(f"{name} {', '.join(f'{value:.3g}' for value in bar)}")
            over = [g > limit for g, limit in zip(got, limits, strict=True)]
            missed |= any(over)
            slack = 2 if reason else 1
            held = [g <= slack * limit for g, limit in zip(got, limits, strict=True)]
            assert all(held), (who, name, got, limits)
    at = ", ".join(f"{truth:g}" for truth in truths)
    note = f", missed: {reason}" if missed else ""
    bar_text = "; ".join(bars) or "none"
    print(f"BENCH | {what} {at}: bias RMSE | {who} | ratio {cells} | bar {bar_text}{note}")
    return sizes


def loop(function: Callable[[Array], float], rows: Array) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array([function(row) for row in rows])


def measures_of_nolds() -> ModuleType:
    """Its one module: the package itself does not import on Python 3.11."""
    found = importlib.util.find_spec("nolds")
    if found is None or not found.submodule_search_locations:
        pytest.skip("nolds is not installed")
    path = f"{found.submodule_search_locations[0]}/measures.py"
    spec = importlib.util.spec_from_file_location("nolds_measures", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nolds_measures"] = module
    spec.loader.exec_module(module)
    return module


DIMENSION = "fractal dimension of paths, 1000 samples, H ="


@pytest.mark.parametrize(
    ("weights", "bars"),
    [("uniform", (0.021, 0.030, 0.040)), ("inverse_k", (0.020, 0.028, 0.037))],
)
def test_higuchi_of_paths(weights: str, bars: tuple[float, ...]) -> None:
    estimator = HiguchiFractalDimension(weights=weights)
    report(
        DIMENSION, f"ours, Higuchi, {weights}", FEW,
        lambda H: estimator.compute(noise(1000, H).cumsum(-1)) - (2 - H), (0.006,), bars,
    )  # fmt: skip


def test_higuchi_of_antropy() -> None:
    peer = pytest.importorskip("antropy")
    report(
        DIMENSION, f"antropy {version('antropy')}, Higuchi", FEW,
        lambda H: loop(peer.higuchi_fd, noise(1000, H).cumsum(-1)) - (2 - H),
    )  # fmt: skip


FLUCTUATION = "DFA of noise, 1024 samples, H ="


@pytest.mark.parametrize(
    ("options", "bias", "bars"),
    [
        ({}, (), (0.030, 0.045, 0.060)),
        ({"min_window": 4, "bias_correction": True}, (0.012,), (0.023, 0.037, 0.047)),
    ],
)
def test_fluctuations(
    options: dict[str, int], bias: tuple[float, ...], bars: tuple[float, ...]
) -> None:
    estimator = DetrendedFluctuationAnalysis(**options)
    who = "ours, windows from 4, corrected" if options else "ours, windows from 10"
    report(FLUCTUATION, who, FEW, lambda H: estimator.compute(noise(1024, H)).alpha - H, bias, bars)


def test_fluctuations_of_antropy() -> None:
    peer = pytest.importorskip("antropy")
    report(
        FLUCTUATION, f"antropy {version('antropy')}", FEW,
        lambda H: loop(peer.detrended_fluctuation, noise(1024, H)) - H,
    )  # fmt: skip


def test_fluctuations_of_neurokit() -> None:
    peer = pytest.importorskip("neurokit2")
    report(
        FLUCTUATION, f"neurokit2 {version('neurokit2')}, 50 of the draws", FEW,
        lambda H: loop(lambda row: peer.fractal_dfa(row)[0], noise(1024, H)[:50]) - H,
    )  # fmt: skip


def test_fluctuations_of_mfdfa() -> None:
    peer = pytest.importorskip("MFDFA")
    lags = np.unique(np.geomspace(4, 256, 16).astype(int))

    def slope(row: Array) -> float:
        lag, fluctuation = peer.MFDFA(row, lag=lags, q=2, order=1)
        return float(np.polyfit(np.log(lag), np.log(fluctuation[:, 0]), 1)[0])

    report(
        FLUCTUATION, f"MFDFA {version('MFDFA')}, windows from 4", FEW,
        lambda H: loop(slope, noise(1024, H)) - H,
    )  # fmt: skip


def test_fluctuations_of_fathon() -> None:
    peer = pytest.importorskip("fathon")
    sizes = np.unique(np.geomspace(4, 256, 16).astype(int))

    def slope(row: Array) -> float:
        dfa = peer.DFA(peer.fathonUtils.toAggregated(row))
        dfa.computeFlucVec(sizes, polOrd=1)
        return float(dfa.fitFlucVec()[0])

    report(
        FLUCTUATION, f"fathon {version('fathon')}, windows from 4", FEW,
        lambda H: loop(slope, noise(1024, H)) - H,
    )  # fmt: skip


EXPONENT = "Hurst exponent of noise, 1024 samples, H ="
# The wavelets' bar is 1.45 times the error of Whittle's estimate.
BARS = {
    "whittle": ((0.005,), (0.022,), ""),
    "wavelet": ((0.006,), (0.032,), ""),
    "abry_veitch": ((), (), ""),
    "local_whittle": (
        (0.03,), (),
        "at H = 0.1 the exact density of such noise over these frequencies gives -0.055",
    ),
    "dfa": ((), (), ""),
    "rs": ((), (), ""),
}  # fmt: skip


@pytest.mark.parametrize("method", list(BARS))
def test_hurst_exponents(method: str) -> None:
    estimator = HurstExponent(method=method)
    bias, rmse, reason = BARS[method]
    report(
        EXPONENT, f"ours, {method}", HURST,
        lambda H: estimator.compute(noise(1024, H)) - H, bias, rmse, reason,
    )  # fmt: skip


def test_hurst_exponents_of_whittlehurst() -> None:
    peer = pytest.importorskip("whittlehurst")
    theirs = report(
        EXPONENT, f"whittlehurst {version('whittlehurst')}, whittle", HURST,
        lambda H: loop(peer.whittle, noise(1024, H)) - H,
    )  # fmt: skip
    estimator = HurstExponent()
    for H, size in zip(HURST, theirs, strict=True):
        ours = estimator.compute(noise(1024, H)) - H
        assert np.sqrt(np.mean(ours**2)) <= 1.1 * size


def test_hurst_exponents_of_nolds() -> None:
    peer = measures_of_nolds()
    report(
        EXPONENT, f"nolds {version('nolds')}, hurst_rs", HURST,
        lambda H: loop(lambda row: peer.hurst_rs(row, fit="poly"), noise(1024, H)) - H,
    )  # fmt: skip


def test_hurst_exponents_of_neurokit() -> None:
    peer = pytest.importorskip("neurokit2")
    report(
        EXPONENT, f"neurokit2 {version('neurokit2')}, fractal_hurst", HURST,
        lambda H: loop(lambda row: peer.fractal_hurst(row)[0], noise(1024, H)) - H,
    )  # fmt: skip


SLOPE = "spectral slope, beta ="
BETAS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


@pytest.mark.parametrize("n", [1000, 4096])
def test_slopes(n: int) -> None:
    estimator = SpectralSlope(method="auto")
    bias = (0.03, 0.03, 0.03, 0.03, 0.03, 0.06)
    rmse = (0.075, 0.075, 0.075, 0.075, 0.075, 0.10) if n == 1000 else (0.042,)
    report(
        f"{n} samples, {SLOPE}", "ours, auto", BETAS,
        lambda beta: estimator.compute(colored(n, beta)) - beta, bias, rmse,
    )  # fmt: skip


@pytest.mark.parametrize(("n", "slack"), [(1000, 1.1), (4096, 1.2)])
def test_slopes_of_specparam(n: int, slack: float) -> None:
    peer = pytest.importorskip("specparam")
    from scipy import signal

    def slopes(beta: float) -> Array:
        freqs, psd = signal.welch(colored(n, beta), fs=100.0, nperseg=256)
        found = []
        for row in psd:
            model = peer.SpectralModel(max_n_peaks=0, aperiodic_mode="fixed", verbose=False)
            model.fit(freqs, row, freq_range=(0.4, 40.0))
            found.append(model.get_params("aperiodic", "exponent"))
        return np.array(found) - beta

    who = f"specparam {version('specparam')}, Welch 256"
    theirs = report(f"{n} samples, {SLOPE}", who, BETAS, slopes)
    estimator = SpectralSlope(method="auto")
    for beta, size in list(zip(BETAS, theirs, strict=True))[:-1]:
        ours = estimator.compute(colored(n, beta)) - beta
        assert np.sqrt(np.mean(ours**2)) <= slack * size
