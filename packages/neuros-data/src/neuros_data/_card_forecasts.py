"""How far one gets without a model: the next sample from the mean, the last one, a few of them."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from neuros_data._card_page import Section
from neuros_data.store import Store

# Enough for two digits; a store may hold terabytes.
_SAMPLES, _CHANNELS = 40_000, 32
_ORDER = 8
_TRAIN = 0.75


def forecasts(store: Store) -> Iterator[Section]:
    """R2 of the next sample on the last quarter of every signal, fitted on what comes before."""
    rows = []
    for name in store.files.ids:
        for modality, part in store.recordings[name].modalities.items():
            data = getattr(part, "data", None)
            if data is None or len(data) < 10 * _ORDER:
                continue
            x = np.asarray(data[:_SAMPLES, :_CHANNELS], np.float64)
            x = x[:, np.isfinite(x).all(axis=0) & (x.std(axis=0) > 0)]
            if x.shape[1]:
                scores = next_sample_scores(x)
                rows.append((name, str(modality), *(f"{score:.3f}" for score in scores)))
    if rows:
        how = "R2 of the next sample over the last quarter, the mean over channels"
        text = (f"{how} (at most {_SAMPLES} samples and {_CHANNELS} channels).",)
        header = ("recording", "modality", "mean", "persistence", f"AR({_ORDER})")
        yield Section("What needs no model", text, (header, *rows))


def next_sample_scores(x: NDArray[np.float64]) -> tuple[float, float, float]:
    """R2 of mean, persistence and autoregression.

    Args:
        x: (time, channel), finite, no channel constant.

    Returns:
        The mean over channels of each.
    """
    n_train = int(_TRAIN * len(x))
    truth = x[n_train:]
    level = x[:n_train].mean(axis=0)
    predicted = [np.broadcast_to(level, truth.shape), x[n_train - 1 : -1]]
    auto = np.empty_like(truth)
    for channel in range(x.shape[1]):
        z = x[:, channel] - level[channel]
        lags = np.lib.stride_tricks.sliding_window_view(z[:-1], _ORDER)
        weights = np.linalg.lstsq(lags[: n_train - _ORDER], z[_ORDER:n_train], rcond=None)[0]
        auto[:, channel] = lags[n_train - _ORDER :] @ weights + level[channel]
    scores = [_r2(truth, values) for values in (*predicted, auto)]
    return scores[0], scores[1], scores[2]


def _r2(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    spread = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    kept = spread > 0
    errors = ((truth - predicted) ** 2).sum(axis=0)
    return float((1 - errors[kept] / spread[kept]).mean()) if kept.any() else float("nan")
