"""Force of a muscle from high-density EMG: one contraction of 32 s."""

from pathlib import Path

import numpy as np
from linear_start import better, fixed_r2, on_linear
from ours import Setting
from ours import ours as ours_alone
from protocol import Row, Task, alternating_blocks, neural, ridge, score_row, truth, wiener

from neuros_neurofm.evaluation import Session

__all__ = ["FORCE"]

_BIN = 102
_LAGS = (1, 2, 4, 8)
_SETTINGS = (
    Setting(32, learning_rate=5e-3, steps=200, unit_dropout=0.1, width=32),
    Setting(32, learning_rate=1e-2, steps=300, unit_dropout=0.1, width=32),
)
_ON_LINEAR = _SETTINGS[:1]
_GROUP = 4


def force_session(folder: Path) -> Session:
    """Root mean square of groups of 4 neighbouring electrodes and the force, bins of 50 ms."""
    with np.load(folder / "hdemg_force" / "vastus_lateralis.npz") as data:
        emg = data["emg_uv"].astype(np.float64)
        force, rate = data["force_pct_mvc"].astype(np.float64), float(data["fs"])
    n = len(emg) // _BIN
    amplitude = np.sqrt((emg[: n * _BIN].reshape(n, _BIN, -1) ** 2).mean(axis=1))
    amplitude = amplitude.reshape(n, -1, _GROUP).mean(axis=2)
    return Session(
        {"emg": amplitude},
        force[: n * _BIN].reshape(n, _BIN).mean(axis=1)[:, None],
        rate / _BIN,
        alternating_blocks(n, n_rounds=4, gap=10),
        name="vastus lateralis",
        units={"emg": [f"electrodes/{k}" for k in range(amplitude.shape[1])]},
    )


def force(folder: Path, seed: int) -> list[Row]:
    """Every decoder on the one contraction."""
    session = force_session(folder)
    (alone,) = ours_alone([session], _SETTINGS, seed=seed)
    ours = better(alone, on_linear(session, _ON_LINEAR, lags=_LAGS, seed=seed), session)
    sized = {"n_parameters": ours.n_parameters, "windows": (32,), "steps": 200, "seed": seed}
    fits = [
        ours,
        ridge(session, (0.0, 0.1, 0.2, 0.4)),
        wiener(session, _LAGS),
        neural("gru", session, **sized),
        neural("transformer", session, **sized),
    ]
    split = "train, validation and test in turn, 4 rounds, gaps of 0.5 s"
    score = fixed_r2(truth(session, "test"))
    return [
        score_row("hdemg_force", split, fit, session, seed=seed, block_s=1.0, score=score)
        for fit in fits
    ]


FORCE = Task("hdemg_force", "force (% of maximum) from 64 electrodes, 50 ms bins, causal", force)
