"""The next volumes of resting-state BOLD: later in time, and in a subject never seen."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from linear_start import on_linear
from ours import Setting
from protocol import Array, Candidate, Fitted, Predict, Row, Task, choose, neural, score_row, wiener

from neuros_neurofm.evaluation import ARForecaster, Blocks, Session

__all__ = ["FMRI"]

_RATE = 1 / 0.72
_HORIZON = 3
_GAP = 20
_LAGS = (1, 2, 4)
_SETTINGS = (Setting(16, learning_rate=1e-3, steps=100, unit_dropout=0.2, width=48),)


def ahead(bold: Array) -> Array:
    """The next volumes of every sample, (time, horizon * region); NaN where the run ends."""
    n = len(bold)
    future = np.full((n, _HORIZON, bold.shape[1]), np.nan)
    for k in range(_HORIZON):
        future[: n - _HORIZON, k] = bold[k + 1 : n - _HORIZON + k + 1]
    return future.reshape(n, -1)


def runs(folder: Path) -> list[Array]:
    """94 regions of every HCP subject, (time, region)."""
    found = []
    for path in sorted((folder / "fmri_rest").glob("hcp_*.npz")):
        with np.load(path) as data:
            found.append(data["bold"].T.astype(np.float64))
    return found


def later(bold: list[Array]) -> Session:
    """Every run: 60 % train, 15 % validate, 25 % test, in this order."""
    parts: tuple[list[slice], list[slice], list[slice]] = ([], [], [])
    signals, start = [], 0
    for run in bold:
        n = len(run)
        edges = (0, round(0.6 * n), round(0.75 * n), n)
        for part, (first, last) in zip(parts, pairwise(edges), strict=True):
            part.append(slice(start + first, start + last - (_GAP if last < n else 0)))
        seen = run[: edges[1]]
        signals.append((run - seen.mean(axis=0)) / seen.std(axis=0))
        start += n
    return _session(signals, Blocks(*(tuple(part) for part in parts)), "later volumes")


def unseen(bold: list[Array]) -> Session:
    """The last run is tested, the one before validates, the others train."""
    # The first 300 volumes of a run only say how large its signal is.
    signals = [(run - run[:300].mean(axis=0)) / run[:300].std(axis=0) for run in bold]
    edges = np.cumsum([0, *(len(run) for run in bold)])
    blocks = [slice(int(a) + 300, int(b)) for a, b in pairwise(edges)]
    split = Blocks(tuple(blocks[:-2]), (blocks[-2],), (blocks[-1],))
    return _session(signals, split, "unseen subject")


def _session(signals: list[Array], blocks: Blocks, name: str) -> Session:
    x = np.concatenate(signals)
    targets = np.full((len(x), _HORIZON * x.shape[1]), np.nan)
    # A block forecasts itself only: no target reaches into the next one.
    for _, slices in blocks:
        for block in slices:
            targets[block] = ahead(x[block])
    units = {"fmri": [f"region/{k}" for k in range(x.shape[1])]}
    return Session({"fmri": x}, targets, _RATE, blocks, name=name, units=units)


def persistence(session: Session) -> Fitted:
    """The last volume again, drawn towards the mean by a factor that validation chooses."""
    x = session.inputs["fmri"]

    def predict(share: float, part: str) -> Array:
        return np.concatenate([np.tile(share * x[b], _HORIZON) for b in dict(session.blocks)[part]])

    def fit(share: float) -> tuple[Predict, int]:
        return partial(predict, share), 1

    shares = [Candidate(f"share {k:g}", partial(fit, k)) for k in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return choose("persistence", shares, session)


def autoregression(session: Session) -> Fitted:
    """An autoregression per region; validation chooses the largest order."""
    x = session.inputs["fmri"]

    def fit(order: int) -> tuple[Predict, int]:
        forecaster = ARForecaster(order).fit([x[block] for block in session.blocks.train])

        def predict(part: str) -> Array:
            rows = []
            for block in dict(session.blocks)[part]:
                # Before a block its mean, 0, stands in.
                padded = np.concatenate([np.zeros((order - 1, x.shape[1])), x[block]])
                windows = np.lib.stride_tricks.sliding_window_view(padded, order, axis=0)
                ahead_of = forecaster.forecast(windows.swapaxes(1, 2), _HORIZON)
                rows.append(ahead_of.reshape(len(ahead_of), -1))
            return np.concatenate(rows)

        return predict, (order + 1) * x.shape[1]

    return choose("AR", [Candidate(f"order {p}", partial(fit, p)) for p in (1, 2, 4, 8)], session)


def fmri(folder: Path, seed: int) -> list[Row]:
    """Both questions, every forecaster on the same volumes."""
    bold = runs(folder)
    rows = []
    for session in (later(bold), unseen(bold)):
        ours = on_linear(session, _SETTINGS, lags=_LAGS, seed=seed)
        sized = {
            "n_parameters": ours.n_parameters,
            "windows": (16,),
            "steps": 100,
            "learning_rates": (1e-3, 3e-3),
            "seed": seed,
        }
        fits = [
            ours,
            persistence(session),
            autoregression(session),
            wiener(session, _LAGS),
            neural("gru", session, **sized),
            neural("transformer", session, **sized),
        ]
        rows += [
            score_row("fmri_rest", session.name, fit, session, seed=seed, block_s=30.0)
            for fit in fits
        ]
    return rows


FMRI = Task("fmri_rest", "the next 3 volumes of 94 regions, 5 HCP subjects (TR 0.72 s)", fmri)
