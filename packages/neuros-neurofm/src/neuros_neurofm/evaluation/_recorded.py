"""A recorded session, each stream at its own rate, as a problem of the benchmark."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from neuros_neurofm.datasets.sessions import RecordedSession, TimeBlocks, windows
from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation._labels import one_hot
from neuros_neurofm.evaluation._tasks import Problem, cut_problem
from neuros_neurofm.evaluation._training import evaluating
from neuros_neurofm.evaluation.session import Blocks
from neuros_neurofm.models import MultiModalNeuroFMX
from neuros_neurofm.training.batching import collate

__all__ = ["recorded_problem"]


def recorded_problem(
    model: MultiModalNeuroFMX, session: RecordedSession, blocks: TimeBlocks
) -> Problem:
    """Decode the test block from all streams at their rates; decoders beside read their bins.

    A bin is that of the behaviour, its input the mean of every channel in it.

    Raises:
        ValueError: No test block, one that is too short, or a model that decodes something else.
    """
    if blocks.test is None:
        raise ValueError("the split has no test block; give it a share > 0")
    parts = [_whole_block(session, block) for block in (blocks.train, blocks.test)]
    predicted = _decode(model, parts[1])
    targets = [_targets(session, part, predicted.shape[1]) for part in parts]
    n_train = len(targets[0])
    return cut_problem(
        Blocks((slice(0, n_train),), (), (slice(n_train, n_train + len(targets[1])),)),
        np.concatenate([_bins(session, part) for part in parts]),
        np.concatenate(targets),
        predicted=predicted,
        kind="labels" if session.labelled else "numbers",
        reads=("activity", "activity"),
    )


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
    device = model.fusion.latent.device
    with evaluating(model):
        decoded = model.forward_batch(_moved(collate([sample]), device)).decoder
    if decoded is None:
        raise ValueError("the model has no decoder; train it on sessions with behavior")
    return decoded[0].double().cpu().numpy()


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _moved(part, device) for name, part in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _targets(session: RecordedSession, sample: Mapping[str, Any], width: int) -> Array:
    """What is decoded, (time, dim); NaN where unknown, one column per class for labels."""
    values, known = sample["behavior"], sample["behavior_mask"]
    if session.labelled:
        return one_hot(values.masked_fill(~known, -1).numpy(), width)
    if values.shape[1] != width:
        raise ValueError(
            f"the behavior of session {session.name} has {values.shape[1]} dimensions, the model "
            f"decodes {width}"
        )
    rows: Array = values.double().masked_fill(~known[:, None], torch.nan).numpy()
    return rows


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
