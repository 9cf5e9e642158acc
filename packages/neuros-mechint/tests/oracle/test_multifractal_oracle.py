"""Multifractal spectra beside the libraries of the field, on the same signals."""

import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch

from neuros_mechint.fractals import (
    FractionalBrownianMotion,
    MultifractalSpectrum,
    MultiplicativeCascade,
)
from neuros_mechint.fractals._leaders import leader_octaves

pytestmark = pytest.mark.oracle
SIZES = [8, 11, 16, 23, 32, 45, 64, 90, 128]
Q = [-5.0, -2.0, -0.5, 0.5, 1.0, 2.0, 5.0]


def signals():
    generator = torch.Generator().manual_seed(0)
    noise = FractionalBrownianMotion().increments(
        1000, 0.7, generator=generator, dtype=torch.float64
    )
    cascade = MultiplicativeCascade(kind="lognormal", sigma=0.4).generate(
        10, generator=generator, dtype=torch.float64
    )
    return {"noise": noise, "cascade": cascade}


@pytest.mark.parametrize("kind", ["noise", "cascade"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_moments_are_those_of_mfdfa(kind, order):
    peer = pytest.importorskip("MFDFA")
    sys.stdout.write(f"MFDFA {version('MFDFA')}\n")
    x = signals()[kind]
    lag, theirs = peer.MFDFA(x.numpy(), lag=np.array(SIZES), q=np.array(Q), order=order)
    assert lag.tolist() == SIZES
    log_f = MultifractalSpectrum(q=Q, scales=SIZES, order=order).curve(x)[1]
    np.testing.assert_allclose(log_f.exp().T.numpy(), theirs, rtol=1e-6)


@pytest.mark.parametrize("kind", ["noise", "cascade"])
def test_moments_of_order_zero_are_those_of_fathon(kind):
    peer = pytest.importorskip("fathon")
    sys.stdout.write(f"fathon {version('fathon')}\n")
    # All sizes divide the signal, as its windows of both ends are then the same.
    x, sizes, q = signals()[kind][:960], [8, 16, 32, 48, 96], [-2.0, 0.0, 2.0]
    profile = peer.fathonUtils.toAggregated(x.numpy())
    n, theirs = peer.MFDFA(profile).computeFlucVec(np.array(sizes), np.array(q), polOrd=1)
    assert n.tolist() == sizes
    log_f = MultifractalSpectrum(q=q, scales=sizes).curve(x)[1]
    np.testing.assert_allclose(log_f.exp().numpy(), theirs, rtol=1e-6)


def paths(name):
    generator = torch.Generator().manual_seed(0)
    if name.startswith("cascade"):
        cascade = MultiplicativeCascade(kind="lognormal", sigma=float(name.split()[1]))
        mass = cascade.generate(14, batch=8, generator=generator, dtype=torch.float64)
        return mass.cumsum(-1)
    motion = FractionalBrownianMotion()
    H = float(name.split()[1])
    return motion.generate(16384, H, batch=8, generator=generator, dtype=torch.float64)[:, 0]


@pytest.mark.filterwarnings("ignore::Warning:pymultifracs")
@pytest.mark.parametrize("name", ["motion 0.5", "motion 0.8", "cascade 0.3", "cascade 0.5"])
def test_log_cumulants_are_those_of_pymultifracs(name):
    peer = pytest.importorskip("pymultifracs")
    from pymultifracs import wavelet

    sys.stdout.write(f"pymultifracs {version('pymultifracs')}\n")
    first, last = 3, 8
    sizes = [2**j for j in range(first, last + 1)]
    x = paths(name)
    ours = MultifractalSpectrum(method="leaders", kind="path", scales=sizes).log_cumulants(x)
    theirs = []
    for row in x.numpy():
        leaders = wavelet.wavelet_analysis(row).get_leaders(np.inf)
        # Weighed by the number of leaders, as ours.
        found = peer.mfa(leaders, [(first, last)], weighted="Nj", n_cumul=2)
        theirs.append(np.ravel(found.cumulants.log_cumulants.values))
    c1, c2 = np.mean(theirs, 0)
    assert ours.c1.mean().item() == pytest.approx(c1, abs=0.05)
    assert ours.c2.mean().item() == pytest.approx(c2, abs=0.03)


def test_wavelet_coefficients_are_those_of_pymultifracs():
    pytest.importorskip("pymultifracs")
    from pymultifracs import wavelet

    x = paths("motion 0.6")[:1, :700]
    theirs = wavelet.wavelet_analysis(x[0].numpy()).values
    ours = leader_octaves(x, 4)
    # Largest coefficients over the three neighbours and the leaders of both halves, by hand: the
    # peer's own leaders add the neighbours at the first octave and halve the finer leaders.
    below = None
    for octave in range(1, 5):
        d = np.abs(theirs[octave][:, 0])
        if below is not None:
            pairs = below[: 2 * (len(below) // 2)].reshape(-1, 2).max(-1)
            size = min(len(pairs), len(d))
            d = np.maximum(d[:size], pairs[:size])
        below = d
        around = np.stack([d[:-2], d[1:-1], d[2:]]).max(0)
        around = around[np.isfinite(around)]
        np.testing.assert_allclose(ours[octave - 1][0, : len(around)].numpy(), around, rtol=1e-9)
        assert abs(len(around) - ours[octave - 1].shape[1]) <= 2
