"""Dynamic modes beside pydmd, and exponents of a series beside nolds."""

import sys
import warnings
from importlib.metadata import version

import numpy as np
import pytest
import torch
from torch import Tensor

from neuros_mechint.dynamics import KoopmanAnalyzer, LyapunovSpectrum

pytestmark = pytest.mark.oracle


@pytest.fixture
def pydmd():
    peer = pytest.importorskip("pydmd")
    sys.stdout.write(f"pydmd {version('pydmd')}\n")
    return peer


def series(n: int, channels: int, noise: float) -> Tensor:
    """Three damped oscillations of different sizes in many channels."""
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(n).double().unsqueeze(-1)
    angle = torch.tensor([0.2, 0.5, 1.1]).double() * t
    size = torch.tensor([0.999, 0.99, 0.98]).double() ** t
    waves = torch.cat([size * angle.cos(), size * angle.sin()], -1)
    mix = torch.randn(6, channels, generator=generator).double()
    return waves @ mix + noise * torch.randn(n, channels, generator=generator).double()


def ordered(values: Tensor | np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    return values[np.lexsort((values.real, np.round(values.imag, 6)))]


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize(
    ("method", "settings"),
    # Not "fbdmd": pydmd multiplies matrices in two different bases there, and misses the planted
    # eigenvalues of data without noise.
    [("dmd", {}), ("exact", {"exact": True})],
)
def test_eigenvalues_and_modes_are_those_of_pydmd(pydmd, noise, method, settings):
    x = series(100, 20, noise)
    mine = KoopmanAnalyzer(rank=6, method=method).compute(x)
    # pydmd asks to be told of its own preprocessing.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pydmd.DMD(svd_rank=6, **settings).fit(x.mT.numpy())
    np.testing.assert_allclose(ordered(mine.eigenvalues), ordered(theirs.eigs), rtol=0, atol=1e-8)
    assert mine.rank == len(theirs.eigs)
    modes = theirs.modes / np.linalg.norm(theirs.modes, axis=0)
    nearest = np.abs(mine.eigenvalues.numpy()[:, None] - theirs.eigs).argmin(1)
    # A mode is defined up to a phase.
    overlap = np.abs((mine.modes.numpy().conj() * modes[:, nearest]).sum(0))
    np.testing.assert_allclose(overlap, 1, atol=1e-8)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_eigenvalues_of_delays_are_those_of_hodmd(pydmd, noise):
    x = series(120, 2, noise)
    mine = KoopmanAnalyzer(rank=6, method="hankel", n_delays=10).compute(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # By default it truncates the channels once more, before the delays.
        theirs = pydmd.HODMD(svd_rank=6, d=10, svd_rank_extra=-1).fit(x.mT.numpy())
    np.testing.assert_allclose(ordered(mine.eigenvalues), ordered(theirs.eigs), rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_optimised_fit_by_pydmd_finds_the_planted_rates(pydmd, dtype):
    assert pydmd.BOPDMD
    dt = 0.1
    x = series(100, 12, 1e-3).to(dtype)
    analyzer = KoopmanAnalyzer(rank=6, method="bopdmd", dt=dt)
    found = analyzer.compute(x)
    assert found.growth_rates.dtype == dtype
    assert bool(found.residuals.isnan().all())
    planted = np.log([0.999, 0.99, 0.98]) / dt + 1j * np.array([0.2, 0.5, 1.1]) / dt
    planted = np.concatenate([planted, planted.conj()])
    # Noise of 1e-3 over 100 samples of 12 channels moves a rate by about 1e-4 / dt.
    np.testing.assert_allclose(
        ordered(found.continuous_eigenvalues), ordered(planted), rtol=0, atol=1e-2
    )
    assert float(found.reconstruction_r2) > 0.999
    predicted = analyzer.predict(x[10], 20)
    torch.testing.assert_close(predicted, x[11:31], rtol=0, atol=2e-2)
    with pytest.raises(ValueError, match="takes one series"):
        analyzer.compute(x.expand(2, -1, -1))


def test_the_exponent_of_a_series_is_near_that_of_nolds(nolds):
    x = [0.3]
    for _ in range(1500):
        x.append(4 * x[-1] * (1 - x[-1]))
    mine = LyapunovSpectrum.from_series(
        torch.tensor(x, dtype=torch.float64), emb_dim=2, fit_range=(0, 4)
    )
    theirs = nolds.lyap_r(
        np.array(x), emb_dim=2, lag=1, min_tsep=1, trajectory_len=5, fit="poly", fit_offset=0
    )
    # nolds skips another window of neighbours.
    assert float(mine.exponent) == pytest.approx(theirs, rel=0.05)
