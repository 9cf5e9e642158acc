"""A model's decoding of one session beside ridge and Wiener, on the same blocks."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from neuros_neurofm.datasets.sessions import RecordedSession, TimeBlocks, windows
from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation.bootstrap import block_bootstrap
from neuros_neurofm.evaluation.linear_decoders import RidgeDecoder, WienerDecoder
from neuros_neurofm.evaluation.metrics import r2_score
from neuros_neurofm.models import MultiModalNeuroFMX
from neuros_neurofm.training.batching import collate

__all__: list[str] = []


class Score(NamedTuple):
    """One decoder on one session, with the ends of its 95 % interval."""

    session: str
    decoder: str
    metric: str
    score: float
    low: float
    high: float
    n_samples: int


class Uncertainty(NamedTuple):
    """How intervals are drawn: seconds per block, resamples and seed."""

    block: float
    n_resamples: int
    seed: int


def score_session(
    model: MultiModalNeuroFMX,
    session: RecordedSession,
    blocks: TimeBlocks,
    *,
    n_lags: int,
    uncertainty: Uncertainty,
) -> list[Score]:
    """Score model, ridge and Wiener on the test block, the latter two fitted on the training block.

    Raises:
        ValueError: The test block is too short, or the model decodes something else.
    """
    if blocks.test is None:
        raise ValueError("the split has no test block; give it a share > 0")
    train = _whole_block(session, blocks.train)
    test = _whole_block(session, blocks.test)
    predictions = {"neurofm": _decode(model, test)}
    truth = _targets(test, predictions["neurofm"].shape[1])
    fitted = _targets(train, truth.shape[1])
    if truth.shape != predictions["neurofm"].shape:
        raise ValueError(
            f"the behavior of session {session.name} has {truth.shape[1]} dimensions, the model "
            f"decodes {predictions['neurofm'].shape[1]}"
        )
    runs = _known_runs(fitted)
    x_train, x_test = _bins(session, train), _bins(session, test)
    for name, decoder in (("ridge", RidgeDecoder()), ("wiener", WienerDecoder(n_lags))):
        decoder.fit([x_train[run] for run in runs], [fitted[run] for run in runs])
        predictions[name] = decoder.predict(x_test)
    metric, statistic = ("accuracy", _accuracy) if session.labelled else ("r2", r2_score)
    n_known = int((~np.isnan(truth).any(axis=1)).sum())
    return [
        Score(
            session.name,
            name,
            metric,
            *_interval(statistic, (truth, predicted), uncertainty, session.behavior_rate),
            n_samples=n_known,
        )
        for name, predicted in predictions.items()
    ]


def _whole_block(session: RecordedSession, block: tuple[float, float]) -> Mapping[str, Any]:
    length = block[1] - block[0]
    slowest = min(session.behavior_rate, *(session.rates[m] for m in session.signals))
    # Rounding may ask for one sample beyond the end: then the block is shorter by one.
    for seconds in (length, length - 1 / slowest):
        found = windows(session, block, window=seconds) if seconds > 0 else []
        if found and len(found[0]["behavior"]):
            return found[0]
    raise ValueError(f"a block of {length:g} s of session {session.name} is too short to score")


def _decode(model: MultiModalNeuroFMX, sample: Mapping[str, Any]) -> Array:
    device = next(model.parameters()).device
    with torch.no_grad():
        batch = _moved(collate([sample]), device)
        decoded = model.forward_batch(batch).decoder
    if decoded is None:
        raise ValueError("the model has no decoder; train it on sessions with behavior")
    return decoded[0].double().cpu().numpy()


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _moved(part, device) for name, part in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _targets(sample: Mapping[str, Any], width: int) -> Array:
    """What is decoded, (time, dim); NaN where unknown, one column per class for labels."""
    values, known = sample["behavior"], sample["behavior_mask"]
    if values.ndim == 1:
        if int(values.max()) >= width:
            raise ValueError(f"label {int(values.max())} is none of the model's {width} classes")
        values = torch.nn.functional.one_hot(values, width)
    rows: Array = values.double().masked_fill(~known[:, None], torch.nan).numpy()
    return rows


def _known_runs(targets: Array) -> list[slice]:
    known = ~np.isnan(targets).any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(int)))
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _bins(session: RecordedSession, sample: Mapping[str, Any]) -> Array:
    """The mean of every channel in every bin of the behaviour, (time, channel).

    Of a stream slower than the behaviour, its last complete sample.
    """
    steps = np.arange(len(sample["behavior"]) + 1) / session.behavior_rate
    columns = []
    for name in session.signals:
        x = sample[name].double().numpy()
        edges = np.minimum(np.floor(steps * session.rates[name] + 1e-6).astype(int), len(x))
        stop = edges[1:]
        start = np.maximum(np.minimum(edges[:-1], stop - 1), 0)
        sums = np.concatenate([np.zeros((1, x.shape[1])), x.cumsum(axis=0)])
        columns.append((sums[stop] - sums[start]) / np.maximum(stop - start, 1)[:, None])
    return np.concatenate(columns, axis=1)


def _accuracy(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
    known = ~np.isnan(truth).any(axis=1)
    same = truth[known].argmax(axis=1) == predicted[known].argmax(axis=1)
    return float(same.mean())


def _interval(
    statistic: Callable[..., float],
    pair: tuple[Array, Array],
    uncertainty: Uncertainty,
    rate: float,
) -> tuple[float, float, float]:
    interval = block_bootstrap(
        statistic,
        pair,
        block_length=max(1, min(round(uncertainty.block * rate), len(pair[0]) // 2)),
        generator=np.random.default_rng(uncertainty.seed),
        n_resamples=uncertainty.n_resamples,
    )
    return interval.estimate, interval.low, interval.high
