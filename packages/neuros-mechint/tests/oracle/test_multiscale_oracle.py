"""Coupling beside mne-connectivity."""

import sys

import numpy as np
import pytest
import torch

from neuros_mechint.multiscale import Coherence, PhaseLockingValue, WeightedPhaseLagIndex

pytestmark = [
    pytest.mark.oracle,
    # Short epochs and deprecated calls of the peer's own dependencies.
    pytest.mark.filterwarnings("ignore"),
]

MEASURES = {
    "coh": Coherence(sampling_rate=200.0, epochs=True),
    "imcoh": Coherence("imaginary", sampling_rate=200.0, epochs=True),
    "plv": PhaseLockingValue(sampling_rate=200.0, epochs=True),
    "wpli": WeightedPhaseLagIndex(sampling_rate=200.0, epochs=True),
    "wpli2_debiased": WeightedPhaseLagIndex(debiased=True, sampling_rate=200.0, epochs=True),
}


@pytest.mark.parametrize("name", MEASURES)
def test_coupling_is_that_of_mne_connectivity(name: str) -> None:
    peer = pytest.importorskip("mne_connectivity")
    sys.stdout.write(f"mne-connectivity {peer.__version__}\n")
    x = np.random.default_rng(0).standard_normal((20, 4, 128))
    x[:, 1] += np.roll(x[:, 0], 3, -1)
    theirs = peer.spectral_connectivity_epochs(
        x, method=name, mode="fourier", sfreq=200.0, fmin=10.0, fmax=90.0, verbose="error"
    )
    ours = MEASURES[name].compute(torch.from_numpy(x))
    keep = np.isin(ours.freqs.numpy().round(6), np.round(theirs.freqs, 6))
    dense = theirs.get_data("dense")
    lower = np.tril_indices(4, -1)
    np.testing.assert_allclose(ours.values.numpy()[..., keep][lower], dense[lower], atol=1e-10)
