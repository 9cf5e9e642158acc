"""Decode the state of a chaotic system from the spikes of three sessions without a common unit."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

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
from neuros_neurofm.losses import BehaviorLoss, MaskedModelingLoss, NeuralMasker
from neuros_neurofm.training import MultiModalTrainer

N_TRAIN, N_TEST, N_ROWS, N_EPOCHS = 128, 32, 16, 13


def train(sessions: tuple[SyntheticSession, ...]) -> MultiModalNeuroFMX:
    """One small causal model for all sessions, about 300 steps."""
    torch.manual_seed(0)
    model = MultiModalNeuroFMX(
        64,
        1,
        100,
        64,
        modalities=("spike",),
        behavior_dim=3,
        sampling_rates={"spike": 50.0},
        perceiver_depth=1,
        popt_depth=1,
        dropout=0.0,
    )
    for session in sessions:
        model.add_units("spike", session.ids)
    starts = range(0, N_TRAIN, N_ROWS)
    batches = [s.to_batch(slice(k, k + N_ROWS)) for k in starts for s in sessions]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    trainer = MultiModalTrainer(
        model,
        batches,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 3e-3, total_steps=N_EPOCHS * len(batches)
        ),
        loss=BehaviorLoss(),
        device="cpu",
        seed=0,
        progress=False,
    )
    trainer.fit(N_EPOCHS)
    return model.eval()


def smoothed(counts: Tensor, tau: float) -> Tensor:
    """Causal exponential filter along time, tau in bins."""
    kernel = (-torch.arange(60) / tau).exp()
    kernel = (kernel / kernel.sum()).flip(0)
    padded = functional.pad(counts.transpose(1, 2), (59, 0))
    return (
        functional.conv1d(padded.flatten(0, 1)[:, None], kernel[None, None])
        .view(*padded.shape[:2], -1)
        .transpose(1, 2)
    )


def ridge_score(session: SyntheticSession, x: Tensor) -> float:
    segments, targets = list(x.numpy()), list(session.latents.numpy())
    decoder = RidgeDecoder().fit(segments[:N_TRAIN], targets[:N_TRAIN])
    predicted = np.concatenate([decoder.predict(part) for part in segments[N_TRAIN:]])
    return float(r2_score(np.concatenate(targets[N_TRAIN:]), predicted))


def test_decoding_lorenz_from_three_sessions(report: Callable[..., None]) -> None:
    sessions = synthetic_population(
        3, 60, generator=Generator().manual_seed(0), n_trials=N_TRAIN + N_TEST
    )
    model = train(sessions)
    ours, rates, counts = [], [], []
    for session in sessions:
        held_out = session.to_batch(slice(N_TRAIN, None))
        with torch.no_grad():
            decoded = model.forward_batch(held_out)["decoder"]
        truth = held_out["behavior"].flatten(0, 1).numpy()
        ours.append(float(r2_score(truth, decoded.flatten(0, 1).numpy())))
        rates.append(ridge_score(session, session.rates))
        # The baseline gets the filter that suits the held-out trials best.
        scores = [ridge_score(session, smoothed(session.counts, tau)) for tau in (3.0, 6.0, 12.0)]
        counts.append(max(scores))
    score = float(np.mean(ours))
    what = f"decoding Lorenz from 60 units, 3 sessions: R² {score:.3f}"
    report(what, f"ridge on the true rates: R² {np.mean(rates):.3f}", np.mean(rates) / score, 1.11)
    report(what, f"ridge on smoothed counts: R² {np.mean(counts):.3f}", np.mean(counts) / score, 1)


def as_session(synthetic: SyntheticSession) -> Session:
    """Trials one after the other, each a block of its own."""
    n_trials, n_times, n_units = synthetic.counts.shape
    trials = tuple(slice(k * n_times, (k + 1) * n_times) for k in range(n_trials))
    return Session(
        {"spike": synthetic.counts.numpy().reshape(-1, n_units)},
        synthetic.latents.numpy().reshape(n_trials * n_times, -1),
        1 / synthetic.bin_s,
        Blocks(trials[: N_TRAIN - N_ROWS], trials[N_TRAIN - N_ROWS : N_TRAIN], trials[N_TRAIN:]),
        f"session {synthetic.session}",
        {"spike": synthetic.ids},
    )


def test_held_out_neurons_are_predicted_from_the_others(report: Callable[..., None]) -> None:
    """A quarter of the units is hidden at test; in training others are, at random."""
    recorded = synthetic_population(
        3, 60, generator=Generator().manual_seed(0), n_trials=N_TRAIN + N_TEST
    )
    sessions = [as_session(each) for each in recorded]
    torch.manual_seed(0)
    model = MultiModalNeuroFMX(
        64,
        1,
        50,
        64,
        modalities=("spike",),
        behavior_dim=3,
        window=2.0,
        sampling_rates={"spike": 50.0},
        perceiver_depth=1,
        popt_depth=1,
        dropout=0.0,
    )
    for session in recorded:
        model.add_units("spike", session.ids)
    fit_decoder(
        model,
        sessions,
        steps=600,
        learning_rate=5e-3,
        validate_every=200,
        objectives=(MaskedModelingLoss(weight=3.0),),
        masker=NeuralMasker("neuron", 0.25),
    )
    held_out = np.arange(45, 60)
    found, possible, scores = [], [], []
    for each, session in zip(recorded, sessions, strict=True):
        counts = each.counts.numpy()[N_TRAIN:]
        found.append(co_smoothing(model, counts, held_out, units=each.ids).bits_per_spike)
        rates = each.rates.numpy()[N_TRAIN:][..., held_out] * each.bin_s
        possible.append(bits_per_spike(rates, counts[..., held_out]))
        truth = np.concatenate([part.targets for part in session.part("test")])
        scores.append(r2_score(truth, decode(model, session)))
    ours, best = float(np.mean(found)), float(np.mean(possible))
    what = f"co-smoothing, 15 of 60 units held out: {ours:.3f} bits/spike"
    # As a bar on the cost: at least 60 % of what the true rates reach.
    report(what, f"true rates: {best:.3f}", best / ours, 1 / 0.6)
    what = f"decoding by the same model: R² {np.mean(scores):.3f}"
    report(what, "true state: R² 1", 1 / float(np.mean(scores)), 1.11)
