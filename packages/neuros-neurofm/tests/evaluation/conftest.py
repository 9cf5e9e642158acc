"""A recording with a known state, and a model whose read-out is fitted in closed form."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.evaluation._decode import run_blocks
from neuros_neurofm.evaluation.session import Session, contiguous_blocks

RATE = 50.0
UNITS = {"spike": [f"u{k}" for k in range(12)], "lfp": [f"e{k}" for k in range(4)]}


def record(seed: int = 0, n_times: int = 1200, **changes: Any) -> Session:
    """Spikes of 12 units and 4 field potentials of one hidden AR(1) process, the target."""
    draw = np.random.default_rng(seed)
    state = lfilter([0.6], [1.0, -0.8], draw.normal(size=(n_times, 1)), axis=0)
    # Units and electrodes are the same in every recording, the state is not.
    tuning, loading = np.random.default_rng(99).normal(size=(1, 12)), np.array([[1, -1, 2, 0.5]])
    fields: dict[str, Any] = {
        "inputs": {
            "spike": draw.poisson(np.exp(0.5 * state @ tuning)).clip(max=15).astype(float),
            "lfp": state @ loading + 0.3 * draw.normal(size=(n_times, 4)),
        },
        "targets": state,
        "rate": RATE,
        "blocks": contiguous_blocks(n_times, gap=50),
        "name": f"s{seed}",
        "units": UNITS,
    }
    return Session(**{**fields, **changes})


def make_model(seed: int = 0, **options: Any) -> MultiModalNeuroFMX:
    """A model as it is before training, with vectors for the channels of `record`."""
    torch.manual_seed(seed)
    settings = {
        "d_model": 64,
        "n_mamba_blocks": 1,
        "n_latents": 32,
        "latent_dim": 128,
        "modalities": ("spike", "lfp"),
        "behavior_dim": 1,
        "window": 0.64,
        "sampling_rates": {"spike": RATE, "lfp": RATE},
        "patches": {"lfp": 1 / RATE},
        "perceiver_depth": 1,
        "popt_depth": 1,
        "dropout": 0.0,
    }
    model = MultiModalNeuroFMX(**{**settings, **options})
    for name in model.modalities:
        model.add_units(name, UNITS[name], generator=torch.Generator().manual_seed(seed))
    return model


def fit_readout(model: MultiModalNeuroFMX, session: Session) -> None:
    """Ridge regression from the latents, one per sample, into the decoder's linear path."""
    parts = session.part("train")
    outputs = run_blocks(model, session, "train")
    # A block shorter than a window has as many latents as a window.
    z = np.concatenate(
        [
            output.latents[0, : len(part.targets)].double().numpy()
            for output, part in zip(outputs, parts, strict=True)
        ]
    )
    y = np.concatenate([part.targets for part in parts])
    if session.labelled:
        y = np.eye(model.config["behavior_dim"])[y]
    center, mean = z.mean(axis=0), y.mean(axis=0)
    gram = (z - center).T @ (z - center) + 1.0 * np.eye(z.shape[1])
    weights = np.linalg.solve(gram, (z - center).T @ (y - mean))
    head = model.heads["decoder"]
    with torch.no_grad():
        head.out.weight.zero_()
        head.out.bias.copy_(torch.as_tensor(mean - center @ weights))
        head.skip.weight.copy_(torch.as_tensor(weights.T))


def labelled(seed: int = 0, **changes: Any) -> Session:
    """The recording with the sign of its state as label, 1 and 0, unknown for a while."""
    session = record(seed, **changes)
    labels = (np.asarray(session.targets)[:, 0] > 0).astype(int)
    labels[1100:1120] = -1
    return replace(session, targets=labels)


@pytest.fixture(scope="session")
def lab() -> SimpleNamespace:
    """What the tests make recordings and models with."""
    return SimpleNamespace(
        units=UNITS,
        record=record,
        labelled=labelled,
        make_model=make_model,
        fit_readout=fit_readout,
    )


@pytest.fixture(scope="session")
def recording() -> Session:
    return record()


@pytest.fixture(scope="session")
def readable_model(recording: Session) -> MultiModalNeuroFMX:
    """Its decoder follows the state of `recording`."""
    model = make_model()
    fit_readout(model, recording)
    return model.eval()
