"""Velocity and head angle of worms from the calcium of their whole brains."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from ours import Setting, add_channels, build, size_of, train
from protocol import (
    Fitted,
    Predict,
    Row,
    Task,
    alternating_blocks,
    cebra,
    neural,
    ridge,
    score_row,
    wiener,
)
from torch import Generator

from neuros_neurofm.augmentation import UnitDropout
from neuros_neurofm.evaluation import Blocks, LinearSkipDecoder, Session, decode

__all__ = ["WORM"]

_ANIMALS = (
    "2022-01-16-01",
    "2022-07-26-31",
    "2022-07-26-38",
    "2022-07-27-38",
    "2022-07-27-45",
    "2022-08-02-31",
)
_STEP_S = 0.6
# The recordings last between 440 and 589 s.
_N_TIMES = 733
_BLOCKS = alternating_blocks(_N_TIMES, n_rounds=4, gap=10)
_BEHAVIOUR = ("velocity", "head_angle")
_SETTING = Setting(16, steps=100, unit_dropout=0.3)
_WITHIN = "mean of six animals: train, validation and test in turn, 4 rounds, gaps of 6 s"
_SHARE = 0.25
_FEW = f"{_ANIMALS[-1]}: the first {_SHARE:.0%} of its training and validation blocks"


def worm_sessions(folder: Path) -> list[Session]:
    """The animals on one grid of time, every behaviour z-scored by its training blocks."""
    return [_session(folder / "worm_calcium" / f"{name}.npz", name) for name in _ANIMALS]


def _session(file: Path, name: str) -> Session:
    with np.load(file) as data:
        times = data["time_s"]
        # A frame is known when it has been taken: the grid holds the latest one.
        grid = times[0] + _STEP_S * np.arange(_N_TIMES)
        latest = np.searchsorted(times, grid + 1e-9, side="right") - 1
        cells = data["dff"][latest].astype(np.float64)
        targets = np.stack([data[b][latest] for b in _BEHAVIOUR], axis=1).astype(np.float64)
    seen = np.concatenate([targets[block] for block in _BLOCKS.train])
    return Session(
        {"calcium": cells},
        (targets - seen.mean(axis=0)) / seen.std(axis=0),
        1 / _STEP_S,
        _BLOCKS,
        name=name,
        units={"calcium": [f"{name}/{k}" for k in range(cells.shape[1])]},
    )


def with_skip(sessions: Sequence[Session], *, seed: int) -> Fitted:
    """The model with a linear part, one of each animal."""
    start = time.perf_counter()
    decoders, steps = [], []
    for session in sessions:
        decoder = LinearSkipDecoder(build([session], _SETTING, seed=seed))
        steps.append(_train_skip(decoder, [session], seed=seed))
        decoders.append(decoder)
    predict = [partial(d.decode, s) for d, s in zip(decoders, sessions, strict=True)]
    size = size_of(decoders[0].model) + _linear_size(sessions[0])
    seconds = time.perf_counter() - start
    note = f"{_SETTING}, steps {steps}, linear part with 1, 2 or 4 lags"
    return Fitted("neurofm + linear skip", _beside(predict), size, seconds, note)


def _linear_size(session: Session) -> int:
    """Weights of the largest linear part."""
    return (4 * session.inputs["calcium"].shape[1] + 1) * session.n_targets


def alone(sessions: Sequence[Session], *, seed: int) -> Fitted:
    """The model without it."""
    start = time.perf_counter()
    models, steps = [], []
    for session in sessions:
        model = build([session], _SETTING, seed=seed)
        steps.append(train(model, [session], _SETTING, seed=seed))
        models.append(model)
    predict = [partial(decode, m, s) for m, s in zip(models, sessions, strict=True)]
    seconds = time.perf_counter() - start
    note = f"{_SETTING}, steps {steps}"
    return Fitted("neurofm", _beside(predict), size_of(models[0]), seconds, note)


def _train_skip(decoder: LinearSkipDecoder, sessions: Sequence[Session], *, seed: int) -> int:
    fit = decoder.fit(
        sessions,
        steps=_SETTING.steps * len(sessions),
        learning_rate=_SETTING.learning_rate,
        patience=_SETTING.steps * len(sessions),
        masker=UnitDropout(_SETTING.unit_dropout),
        generator=Generator().manual_seed(seed),
    )
    return fit.best_step


def _beside(predict: Sequence[Predict]) -> Predict:
    """The predictions of several animals as columns."""
    return lambda part: np.concatenate([one(part) for one in predict], axis=1)


def _mean(fits: Sequence[Fitted]) -> Fitted:
    notes = sorted({fit.note.partition(": ")[2] for fit in fits})
    return Fitted(
        fits[0].name,
        _beside([fit.predict for fit in fits]),
        fits[0].n_parameters,
        sum(fit.seconds for fit in fits),
        "one of each animal: " + "; ".join(notes),
    )


def _baselines(session: Session, *, n_parameters: int, seed: int) -> list[Fitted]:
    sized = {"n_parameters": n_parameters, "windows": (16,), "steps": 150, "seed": seed}
    rates = {"learning_rates": (1e-3, 3e-3)}
    return [
        ridge(session, (0.0, 0.6, 1.2, 2.4)),
        wiener(session, (2, 4)),
        neural("gru", session, **sized, **rates),
        neural("transformer", session, **sized, **rates),
        *cebra(session),
    ]


def beginning(session: Session, share: float) -> Session:
    """The session with the first share of every training and validation block; the same test."""
    shorter = [
        tuple(slice(b.start, b.start + round(share * (b.stop - b.start))) for b in blocks)
        for blocks in (session.blocks.train, session.blocks.validation)
    ]
    return replace(session, blocks=Blocks(*shorter, session.blocks.test))


def few_shot(sessions: Sequence[Session], *, seed: int) -> dict[str, Fitted]:
    """The last animal with little data: after training on the others, and from scratch."""
    *others, target = sessions
    little = beginning(target, _SHARE)
    start = time.perf_counter()
    pretrained = LinearSkipDecoder(build(others, _SETTING, seed=seed))
    _train_skip(pretrained, others, seed=seed)
    add_channels(pretrained.model, little, seed=seed)
    fits = {}
    for name, decoder in (
        ("neurofm + linear skip, pretrained on 5 animals", pretrained),
        (
            "neurofm + linear skip, from scratch",
            LinearSkipDecoder(build([little], _SETTING, seed=seed)),
        ),
    ):
        step = _train_skip(decoder, [little], seed=seed)
        seconds = time.perf_counter() - start
        predict = partial(decoder.decode, little)
        size = size_of(decoder.model) + _linear_size(little)
        fits[name] = Fitted(name, predict, size, seconds, f"step {step}")
        start = time.perf_counter()
    return fits


def worm(folder: Path, seed: int) -> list[Row]:
    """All animals, each decoded from its own training blocks; then one animal with little data."""
    sessions = worm_sessions(folder)
    models = [with_skip(sessions, seed=seed), alone(sessions, seed=seed)]
    size = models[0].n_parameters
    per_animal = [_baselines(s, n_parameters=size, seed=seed) for s in sessions]
    fits = [*models, *(_mean(fits) for fits in zip(*per_animal, strict=True))]
    little = beginning(sessions[-1], _SHARE)
    few = [
        *few_shot(sessions, seed=seed).values(),
        *_baselines(little, n_parameters=size, seed=seed),
    ]
    return scored(sessions, fits, few, seed)


def worm_cebra(folder: Path, seed: int) -> list[Row]:
    """The rows of CEBRA alone, on the same blocks."""
    sessions = worm_sessions(folder)
    fits = [cebra(session) for session in sessions]
    mean = [_mean(one) for one in zip(*fits, strict=True)]
    return scored(sessions, mean, cebra(beginning(sessions[-1], _SHARE)), seed)


def scored(
    sessions: Sequence[Session], fits: Sequence[Fitted], few: Sequence[Fitted], seed: int
) -> list[Row]:
    """The rows of all animals, and of the one with little data."""
    within = replace(
        sessions[0], targets=np.concatenate([np.asarray(s.targets) for s in sessions], axis=1)
    )
    little = beginning(sessions[-1], _SHARE)
    return [
        score_row("worm_calcium", split, fit, session, seed=seed, block_s=20.0)
        for split, session, decoders in ((_WITHIN, within, fits), (_FEW, little, few))
        for fit in decoders
    ]


WORM = Task(
    "worm_calcium",
    "velocity and head angle from whole-brain calcium, 0.6 s frames, causal",
    worm,
    worm_cebra,
)
