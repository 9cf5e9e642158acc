"""The synthetic protocol: three Lorenz-driven populations of 60 units without a common one.

A further session of unknown units after a tenth of its data: `tests/test_estimator.py`.
"""

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.datasets import SyntheticSession, synthetic_population
from neuros_neurofm.evaluation import (
    Blocks,
    RidgeDecoder,
    Session,
    bits_per_spike,
    co_smoothing,
    decode,
    fit_decoder,
    r2_score,
)
from neuros_neurofm.losses import MaskedModelingLoss, NeuralMasker

N_TRAIN, N_VALIDATION, N_TEST, N_TIMES = 64, 8, 16, 50


def as_session(synthetic: SyntheticSession) -> Session:
    """Trials one after the other, each a block of its own."""
    counts, states = synthetic.counts.numpy(), synthetic.latents.numpy()
    trials = [slice(k * N_TIMES, (k + 1) * N_TIMES) for k in range(len(counts))]
    first_test = N_TRAIN + N_VALIDATION
    return Session(
        {"spike": counts.reshape(-1, 60)},
        states.reshape(-1, 3),
        1 / synthetic.bin_s,
        Blocks(
            tuple(trials[:N_TRAIN]), tuple(trials[N_TRAIN:first_test]), tuple(trials[first_test:])
        ),
        f"session {synthetic.session}",
        {"spike": synthetic.ids},
    )


def smoothed(counts: Tensor, tau: float) -> Tensor:
    """Causal exponential filter along time, tau in bins, over (trials, time, units)."""
    lags = torch.arange(N_TIMES)[:, None] - torch.arange(N_TIMES)
    weights = torch.where(lags >= 0, (-lags / tau).exp(), 0.0)
    return torch.einsum("ts,ksu->ktu", weights / weights.sum(1, keepdim=True), counts)


def ridge_score(synthetic: SyntheticSession, x: Tensor) -> float:
    trials, states = list(x.numpy()), list(synthetic.latents.numpy())
    ridge = RidgeDecoder().fit(trials[:N_TRAIN], states[:N_TRAIN])
    test = slice(N_TRAIN + N_VALIDATION, None)
    predicted = np.concatenate([ridge.predict(trial) for trial in trials[test]])
    return r2_score(np.concatenate(states[test]), predicted)


# One model is trained on three sessions: less would not tell the units' vectors.
@pytest.mark.slow
def test_a_model_of_three_sessions_decodes_and_predicts_hidden_units() -> None:
    recorded = synthetic_population(
        3,
        60,
        generator=Generator().manual_seed(0),
        n_trials=N_TRAIN + N_VALIDATION + N_TEST,
        n_times=N_TIMES,
    )
    sessions = [as_session(each) for each in recorded]
    torch.manual_seed(0)
    model = MultiModalNeuroFMX(
        32,
        1,
        25,
        32,
        modalities=("spike",),
        behavior_dim=3,
        window=1.0,
        sampling_rates={"spike": 50.0},
        perceiver_depth=1,
        popt_depth=1,
        dropout=0.0,
    )
    for each in recorded:
        model.add_units("spike", each.ids)
    fit_decoder(
        model,
        sessions,
        steps=500,
        batch_size=8,
        learning_rate=1e-2,
        validate_every=250,
        objectives=(MaskedModelingLoss(weight=3.0),),
        masker=NeuralMasker("neuron", 0.25),
    )
    hidden = np.arange(45, 60)
    found, possible, decoded, on_rates, on_counts = [], [], [], [], []
    for each, session in zip(recorded, sessions, strict=True):
        counts = each.counts.numpy()[-N_TEST:]
        found.append(co_smoothing(model, counts, hidden, units=each.ids).bits_per_spike)
        rates = each.rates.numpy()[-N_TEST:][..., hidden] * each.bin_s
        possible.append(bits_per_spike(rates, counts[..., hidden]))
        truth = np.concatenate([part.targets for part in session.part("test")])
        decoded.append(r2_score(truth, decode(model, session)))
        on_rates.append(ridge_score(each, each.rates))
        # The baseline gets the filter that suits the held-out trials best.
        on_counts.append(max(ridge_score(each, smoothed(each.counts, tau)) for tau in (3, 6, 12)))
    assert np.mean(found) >= 0.6 * np.mean(possible), (found, possible)
    assert np.mean(decoded) >= 0.9 * np.mean(on_rates), (decoded, on_rates)
    assert np.mean(decoded) >= np.mean(on_counts), (decoded, on_counts)
