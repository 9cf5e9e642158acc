"""The wavelet octaves of an activation beside PyWavelets."""

import sys

import numpy as np
import pytest
import torch

from neuros_mechint.interventions._time_bands import daubechies, wavelet_components, wavelet_depth

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("order", [1, 2, 4, 10, 20])
def test_filters_are_those_of_pywavelets(order):
    pywt = pytest.importorskip("pywt")
    sys.stdout.write(f"pywavelets {pywt.__version__}\n")
    theirs = np.array(pywt.Wavelet(f"db{order}").rec_lo)
    np.testing.assert_allclose(daubechies(f"db{order}"), theirs, atol=1e-11)


@pytest.mark.parametrize("n", [64, 101, 500])
@pytest.mark.parametrize("wavelet", ["db1", "db3", "db4"])
def test_octaves_are_those_of_pywavelets(wavelet, n):
    pywt = pytest.importorskip("pywt")
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    depth = wavelet_depth(n, wavelet)
    assert depth == pywt.dwt_max_level(n, wavelet)
    coefficients = pywt.wavedec(x.numpy(), wavelet, mode="symmetric", level=depth)
    for octave, part in enumerate(wavelet_components(x, wavelet, depth)):
        kept = [np.zeros_like(c) for c in coefficients]
        kept[depth - octave] = coefficients[depth - octave]
        theirs = pywt.waverec(kept, wavelet, mode="symmetric")[..., :n]
        np.testing.assert_allclose(part.numpy(), theirs, atol=1e-12)
