"""Hand velocity from motor cortex: a monkey that reaches, and one trial of a maze."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ours import Setting, ours
from protocol import Fitted, Row, Task, alternating_blocks, cebra, neural, ridge, score_row, wiener

from neuros_neurofm.evaluation import Session

__all__ = ["MAZE", "REACH"]

_RATE = 5.0
# Of the rates 1e-3 and 3e-3 and the unit dropouts 0, 0.3 and 0.5, what the validation blocks liked.
_SETTINGS = (Setting(10, learning_rate=1e-3, steps=600, unit_dropout=0.5),)
# Speed of the hand, mm/s, above which it reaches.
_REACHES = 100.0


def reach_sessions(folder: Path) -> list[Session]:
    """Both sets of the monkey: spikes in 200 ms bins, hand velocity, three rounds of blocks."""
    sessions = []
    for name in ("mihi_setA", "mihi_setB"):
        with np.load(folder / "monkey_reach" / f"{name}.npz") as data:
            counts = data["rates"] / _RATE
            velocity = data["velocity"].astype(np.float64)
        n, n_units = counts.shape
        sessions.append(
            Session(
                {"spike": counts},
                velocity,
                _RATE,
                alternating_blocks(n, n_rounds=3, gap=10),
                name=name,
                units={"spike": [f"{name}/{k}" for k in range(n_units)]},
            )
        )
    return sessions


def reach(folder: Path, seed: int) -> list[Row]:
    """The model, trained on the training blocks of both sets, beside decoders of one set each."""
    rows = []
    sessions = reach_sessions(folder)
    for session, model in zip(sessions, ours(sessions, _SETTINGS, seed=seed), strict=True):
        sized = {"n_parameters": model.n_parameters, "windows": (10, 25), "seed": seed}
        fits = [
            model,
            ridge(session, (0.0, 0.2, 0.4, 0.8)),
            wiener(session, (2, 3, 4, 6, 8)),
            neural("gru", session, **sized),
            neural("transformer", session, **sized),
            *cebra(session),
        ]
        rows += scored(session, fits, seed)
    return rows


def reach_cebra(folder: Path, seed: int) -> list[Row]:
    """The rows of CEBRA alone, on the same blocks."""
    return [row for s in reach_sessions(folder) for row in scored(s, cebra(s), seed)]


def scored(session: Session, fits: Sequence[Fitted], seed: int) -> list[Row]:
    """The rows of one set of the monkey."""
    split = f"{session.name}: train, validation and test in turn, 3 rounds, gaps of 2 s"
    return [score_row("monkey_reach", split, fit, session, seed=seed, block_s=4.0) for fit in fits]


def maze(folder: Path, seed: int) -> list[Row]:
    """Why one trial has no score: every decoder is refused alike."""
    with np.load(folder / "mc_maze_trial" / "trial_748.npz") as data:
        speed = np.hypot(*data["hand_vel"].astype(np.float64).T)
    moving = float((speed > _REACHES).sum()) / 1e3
    total = len(speed) / 1e3
    note = (
        f"one reach: the hand is faster than {_REACHES:g} mm/s for {moving:.2f} of {total:.2f} s, "
        "so no split has movement in training, validation and test without neighbouring samples "
        "of one movement in two of them"
    )
    nothing = (math.nan, math.nan, math.nan, 0.0, 0.0, 0, 0.0)
    return [Row("mc_maze_trial", "one trial", "neurofm", "R2", *nothing, seed, note)]


MAZE = Task("mc_maze_trial", "hand velocity (x, y) from one trial of a maze", maze)
REACH = Task(
    "monkey_reach", "hand velocity (x, y) from M1, 200 ms bins, causal", reach, reach_cebra
)
