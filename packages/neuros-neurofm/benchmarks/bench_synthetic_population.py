"""Decode the state of a chaotic system from the spikes of three sessions without a common unit."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.datasets import SyntheticSession, synthetic_population
from neuros_neurofm.evaluation import RidgeDecoder, r2_score
from neuros_neurofm.losses import BehaviorLoss
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
