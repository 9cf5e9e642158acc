"""Cost of coupling between channels beside two peers, one thread, sides interleaved."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

from neuros_mechint.multiscale import Coherence, PhaseLockingValue, WeightedPhaseLagIndex

N_EPOCHS, N_CHANNELS, N_TIME, RATE = 40, 32, 512, 256.0
WORK = f"coherence, PLV, wPLI, dwPLI, {N_CHANNELS} ch x {N_EPOCHS} epochs x {N_TIME}"
# The peers transform the signals once for all four measures.
MISSED = (
    "each of the four calls checks and transforms the signals anew; 1.5 to 1.7 beside "
    "mne-connectivity on an idle machine, 8 to 14 beside spectral_connectivity"
)
MEASURES = [
    Coherence(sampling_rate=RATE, epochs=True),
    PhaseLockingValue(sampling_rate=RATE, epochs=True),
    WeightedPhaseLagIndex(sampling_rate=RATE, epochs=True),
    WeightedPhaseLagIndex(debiased=True, sampling_rate=RATE, epochs=True),
]


def test_coupling_beside_mne_connectivity(
    shortest: Callable[..., list[float]], report: Callable[..., None]
) -> None:
    peer = pytest.importorskip("mne_connectivity")
    x = np.random.default_rng(0).standard_normal((N_EPOCHS, N_CHANNELS, N_TIME))
    signals = torch.from_numpy(x)
    names = ["coh", "plv", "wpli", "wpli2_debiased"]

    def theirs() -> object:
        return peer.spectral_connectivity_epochs(
            x, method=names, mode="fourier", sfreq=RATE, fmin=1.0, fmax=127.0, verbose="error"
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = theirs()
        mine, other = shortest(
            lambda: [measure.compute(signals) for measure in MEASURES], theirs, rounds=7
        )
    lower = np.tril_indices(N_CHANNELS, -1)
    for measure, result in zip(MEASURES, found, strict=True):
        ours = measure.compute(signals)
        keep = np.isin(ours.freqs.numpy().round(6), np.round(result.freqs, 6))
        dense = result.get_data("dense")[lower]
        np.testing.assert_allclose(ours.values.numpy()[..., keep][lower], dense, atol=1e-10)
    report(WORK, f"mne-connectivity {peer.__version__}", other / mine, 2.5, MISSED)


def test_coupling_beside_spectral_connectivity(
    shortest: Callable[..., list[float]], report: Callable[..., None]
) -> None:
    peer = pytest.importorskip("spectral_connectivity")
    x = np.random.default_rng(0).standard_normal((N_EPOCHS, N_CHANNELS, N_TIME))
    signals = torch.from_numpy(x)

    def theirs() -> list[object]:
        tapers = peer.Multitaper(
            x.transpose(2, 0, 1), sampling_frequency=RATE, time_halfbandwidth_product=1
        )
        found = peer.Connectivity.from_multitaper(tapers)
        return [
            found.coherence_magnitude(),
            found.phase_locking_value(),
            found.weighted_phase_lag_index(),
            found.debiased_squared_weighted_phase_lag_index(),
        ]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine, other = shortest(
            lambda: [measure.compute(signals) for measure in MEASURES], theirs, rounds=5
        )
    report(WORK, f"spectral_connectivity {peer.__version__}", other / mine, 30.0, MISSED)
