"""Scaling exponents and generators beside the libraries of the field, on the same signals."""

import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch

from neuros_mechint.fractals import (
    ColoredNoise,
    DetrendedFluctuationAnalysis,
    FractionalBrownianMotion,
    HurstExponent,
)
from neuros_mechint.fractals._octaves import octave_energies
from neuros_mechint.fractals._rescaled_range import block_sizes

pytestmark = pytest.mark.oracle
SIZES = [8, 11, 16, 23, 32, 45, 64, 90, 128]


def noise(n, H, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    motion = FractionalBrownianMotion()
    return motion.increments(n, H, batch=batch, generator=generator, dtype=torch.float64)[:, 0]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_fluctuations_are_those_of_mfdfa(order):
    peer = pytest.importorskip("MFDFA")
    sys.stdout.write(f"MFDFA {version('MFDFA')}\n")
    x = noise(1000, 0.7, 1)[0]
    lag, theirs = peer.MFDFA(x.numpy(), lag=np.array(SIZES), q=2, order=order)
    ours = DetrendedFluctuationAnalysis(scales=lag.tolist(), order=order, two_sided=False)
    both = DetrendedFluctuationAnalysis(scales=lag.tolist(), order=order)
    found = [d.compute(x).fluctuations.numpy() for d in (ours, both)]
    closest = min(np.abs(f / theirs[:, 0] - 1).max() for f in found)
    assert closest <= 1e-6


@pytest.mark.parametrize("order", [1, 2])
def test_fluctuations_are_those_of_fathon(order):
    peer = pytest.importorskip("fathon")
    sys.stdout.write(f"fathon {version('fathon')}\n")
    x = noise(1000, 0.3, 1)[0]
    profile = peer.fathonUtils.toAggregated(x.numpy())
    n, theirs = peer.DFA(profile).computeFlucVec(np.array(SIZES), polOrd=order)
    ours = DetrendedFluctuationAnalysis(scales=SIZES, order=order, two_sided=False)
    assert n.tolist() == SIZES
    np.testing.assert_allclose(ours.compute(x).fluctuations.numpy(), theirs, rtol=1e-6)


@pytest.mark.parametrize("H", [0.1, 0.5, 0.9])
def test_whittle_estimates_are_those_of_whittlehurst(H):
    peer = pytest.importorskip("whittlehurst")
    sys.stdout.write(f"whittlehurst {version('whittlehurst')}\n")
    # An odd number of samples: the peer also counts the Nyquist frequency, which has another law.
    x = noise(1023, H, 100)
    theirs = np.array([peer.whittle(row) for row in x.numpy()])
    ours = HurstExponent().compute(x).numpy()
    assert np.abs(ours - theirs).max() <= 2e-3
    assert np.sqrt(np.mean((ours - H) ** 2)) <= 1.1 * np.sqrt(np.mean((theirs - H) ** 2))


def test_octaves_are_those_of_pywavelets():
    peer = pytest.importorskip("pywt")
    sys.stdout.write(f"PyWavelets {version('PyWavelets')}\n")
    x = noise(500, 0.6, 1)
    approximation = x[0].numpy()
    for energy in octave_energies(x)[0].tolist():
        n = len(approximation)
        approximation, detail = peer.dwt(approximation, "db3", mode="zero")
        # Coefficient i reads samples 2 i - 4 to 2 i + 1: the others touch the padding.
        kept = slice(2, 2 + (n - 6) // 2 + 1)
        approximation, detail = approximation[kept], detail[kept]
        assert energy == pytest.approx(np.mean(detail**2), rel=1e-9)


def test_rescaled_ranges_are_those_of_nolds(nolds):
    # Above 340 samples of a block it takes Stirling's formula for the expectation.
    x = noise(640, 0.6, 8)
    options = {"fit": "poly", "corrected": True, "nvals": block_sizes(640)}
    theirs = [nolds.hurst_rs(row, **options) for row in x.numpy()]
    ours = HurstExponent(method="rs").compute(x).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_periodic_noise_has_the_law_of_colorednoise():
    peer = pytest.importorskip("colorednoise")
    sys.stdout.write(f"colorednoise {version('colorednoise')}\n")
    generator = torch.Generator().manual_seed(0)
    x = ColoredNoise(periodic=True).generate(
        1024, 1.0, 500, generator=generator, dtype=torch.float64
    )
    y = peer.powerlaw_psd_gaussian(1.0, (500, 1024), random_state=0)
    log_f = np.log(np.fft.rfftfreq(1024)[1:-1])

    def slope(signals):
        logs = np.log(np.abs(np.fft.rfft(signals)[:, 1:-1]) ** 2).mean(0)
        return np.polyfit(log_f, logs, 1)[0]

    assert abs(slope(x.numpy()) - slope(y)) <= 0.02
    assert x.square().mean().item() == pytest.approx(np.mean(y.var(-1)), rel=0.06)
