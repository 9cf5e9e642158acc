"""Position of a rat on a track, from the spikes of its hippocampus."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ours import Setting, ours
from protocol import Fitted, Row, Task, alternating_blocks, cebra, neural, ridge, score_row, wiener

from neuros_neurofm.evaluation import Session

__all__ = ["TRACK"]

_RATE = 5.0
# The rat runs for a quarter of an hour and rests afterwards.
_RUN_S = 900.0
# Pixels per second; a rat that sits replays other places.
_SLOWEST = 30.0
_SPLIT = "first 15 min: train, validation and test in turn, 4 rounds, gaps of 5 s; running only"
# Of windows of 25 and 50, rates 1e-3 and 3e-3 and unit dropouts 0 and 0.2, what the validation
# blocks liked.
_SETTINGS = (Setting(50, learning_rate=1e-3, steps=600, unit_dropout=0.2),)


def track_session(folder: Path) -> Session:
    """Spikes in 200 ms bins and the position at the end of each, NaN while the rat sits."""
    with np.load(folder / "hippocampus_track" / "linear_track.npz") as data:
        start = float(data["position_times"][0])
        edges = np.arange(start, start + _RUN_S, 1 / _RATE)
        n_units = int(data["n_units"])
        bins = np.searchsorted(edges, data["spike_times"], side="right") - 1
        inside = (bins >= 0) & (bins < len(edges) - 1)
        counts = np.zeros((len(edges) - 1, n_units))
        np.add.at(counts, (bins[inside], data["spike_units"][inside]), 1)
        places = data["position_xy"].astype(np.float64).T
        times = data["position_times"]
        position = np.stack([np.interp(edges[1:], times, x) for x in places], axis=1)
    # One second on either side: the label of a bin may look ahead, the decoder's input may not.
    kernel = np.hanning(13)[1:-1, None] / np.hanning(13).sum()
    padded = np.pad(position, ((5, 5), (0, 0)), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(padded, 11, axis=0) @ kernel
    speed = np.hypot(*(np.gradient(smooth[:, :, 0], axis=0) * _RATE).T)
    targets = np.where(speed[:, None] > _SLOWEST, position, np.nan)
    return Session(
        {"spike": counts},
        targets,
        _RATE,
        alternating_blocks(len(counts), n_rounds=4, gap=25),
        name="linear_track",
        units={"spike": [f"u{k}" for k in range(n_units)]},
    )


def track(folder: Path, seed: int) -> list[Row]:
    """The model beside the baselines on the one recording."""
    session = track_session(folder)
    (model,) = ours([session], _SETTINGS, seed=seed)
    sized = {"n_parameters": model.n_parameters, "windows": (25, 50), "seed": seed}
    fits = [
        model,
        ridge(session, (0.0, 0.2, 0.4, 0.8, 1.6)),
        wiener(session, (2, 4, 8, 12, 20)),
        neural("gru", session, **sized),
        neural("transformer", session, **sized),
        *cebra(session),
    ]
    return scored(session, fits, seed)


def track_cebra(folder: Path, seed: int) -> list[Row]:
    """The row of CEBRA alone, on the same blocks."""
    session = track_session(folder)
    return scored(session, cebra(session), seed)


def scored(session: Session, fits: Sequence[Fitted], seed: int) -> list[Row]:
    """The rows of the recording."""
    return [
        score_row("hippocampus_track", _SPLIT, fit, session, seed=seed, block_s=10.0)
        for fit in fits
    ]


TRACK = Task(
    "hippocampus_track", "position (x, y) from CA1 while running, 200 ms bins", track, track_cebra
)
