"""The tasks of the benchmark: who reads what, what is predicted, and how it is scored."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation._batches import shared_modalities
from neuros_neurofm.evaluation._decode import decode, run_blocks
from neuros_neurofm.evaluation._labels import one_hot, score_classes
from neuros_neurofm.evaluation.metrics import bits_per_spike, r2_score
from neuros_neurofm.evaluation.session import Blocks, Session
from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX

Pairs: TypeAlias = list[tuple[Array, Array]]
Kind: TypeAlias = Literal["numbers", "counts", "labels"]

_METRICS: dict[Kind, str] = {
    "numbers": "R2",
    "counts": "bits/spike",
    "labels": "balanced accuracy",
}

# Units of the visual task are hidden in turn, a quarter at a time.
_N_FOLDS = 4
# Share of the units that the spiking task holds out, as in the Neural Latents Benchmark.
_HELD_OUT = 0.25


class Problem(NamedTuple):
    """One task on one session.

    Attributes:
        train: Input and target of the baselines, one pair per stretch without missing targets.
        validation: The same of the validation blocks.
        test: Inputs of the baselines, one per test block.
        kept: Which test samples are scored.
        truth: Targets of the scored test samples, (time, dim).
        predicted: What the model says at the scored test samples, (time, dim).
        kind: `numbers`, scored by R2; `counts`, scored by their likelihood; or `labels`, as rows
            (time, class), scored by balanced accuracy.
        reads: What the model reads, and what the baselines read.
    """

    train: Pairs
    validation: Pairs
    test: list[Array]
    kept: NDArray[np.bool_]
    truth: Array
    predicted: Array
    kind: Kind
    reads: tuple[str, str]

    @property
    def metric(self) -> str:
        """Name of the score."""
        return _METRICS[self.kind]

    def score(self, truth: Array, predicted: Array) -> float:
        """Score predictions, larger is better."""
        if self.kind == "counts":
            return bits_per_spike(predicted, truth)
        return (score_classes if self.kind == "labels" else r2_score)(truth, predicted)


def motor_decoding(model: MultiModalNeuroFMX, session: Session, rng: Generator) -> Problem:
    """Decode the targets, numbers or labels, from all modalities that the model reads."""
    del rng
    targets = _rows("motor_decoding", session, int(model.config["behavior_dim"]))
    names = shared_modalities(model, session)
    x = np.concatenate([session.inputs[name] for name in names], axis=1).astype(np.float64)
    return cut_problem(
        session.blocks,
        x,
        targets,
        predicted=decode(model, session),
        kind="labels" if session.labelled else "numbers",
        reads=("activity", "activity"),
    )


def visual_encoding(model: MultiModalNeuroFMX, session: Session, rng: Generator) -> Problem:
    """Predict responses: the model from the other units, the baselines from the stimulus."""
    n_stimuli = int(np.asarray(session.targets).max(initial=0)) + 1 if session.labelled else 0
    stimulus = _rows("visual_encoding", session, n_stimuli)
    if np.isnan(stimulus).any():
        raise ValueError(
            f"visual_encoding needs the stimulus of every sample of {session.name!r}, "
            f"{int(np.isnan(stimulus).any(axis=1).sum())} are NaN"
        )
    name = shared_modalities(model, session)[0]
    responses = session.inputs[name].astype(np.float64)
    n_units = responses.shape[1]
    if n_units < 2:
        raise ValueError(f"visual_encoding hides units in turn, {name} has only {n_units}")
    folds = np.array_split(rng.permutation(n_units), min(_N_FOLDS, n_units))
    predicted = np.zeros((_n_samples(session, "test"), n_units))
    for fold in folds:
        predicted[:, fold] = predict_hidden(model, session, name, fold)
    return cut_problem(
        session.blocks,
        stimulus,
        responses,
        predicted=predicted,
        kind="numbers",
        reads=("other units", "stimulus"),
    )


def spiking_prediction(model: MultiModalNeuroFMX, session: Session, rng: Generator) -> Problem:
    """Predict the rates of held-out units from the others: co-smoothing."""
    if "spike" not in shared_modalities(model, session):
        raise ValueError(
            f"spiking_prediction needs spikes that the model reads; it reads "
            f"{list(model.modalities)}, {session.name!r} has {list(session.inputs)}"
        )
    counts = session.inputs["spike"].astype(np.float64)
    n_units = counts.shape[1]
    if n_units < 2:
        raise ValueError("spiking_prediction holds units out, the session has only 1")
    order = rng.permutation(n_units)
    n_hidden = max(round(_HELD_OUT * n_units), 1)
    hidden, seen = np.sort(order[:n_hidden]), np.sort(order[n_hidden:])
    return cut_problem(
        session.blocks,
        counts[:, seen],
        counts[:, hidden],
        predicted=predict_hidden(model, session, "spike", hidden),
        kind="counts",
        reads=("other units", "other units"),
    )


TASKS: dict[str, Callable[[MultiModalNeuroFMX, Session, Generator], Problem]] = {
    "motor_decoding": motor_decoding,
    "spiking_prediction": spiking_prediction,
    "visual_encoding": visual_encoding,
}


def predict_hidden(
    model: MultiModalNeuroFMX, session: Session, name: str, hidden: NDArray[np.intp]
) -> Array:
    """Ask the encoder for channels of the test blocks that the model does not see.

    Returns:
        Expected samples of the hidden channels, (time, hidden): counts per bin for spikes.
    """
    visible = np.ones(session.inputs[name].shape[1], dtype=np.bool_)
    visible[hidden] = False
    outputs = run_blocks(model, session, visible={name: visible})
    rows = [out.encoder[name][0, :, hidden].double().cpu().numpy() for out in outputs]
    values = np.concatenate(rows)
    return np.asarray(np.exp(values) if name == "spike" else values)


def cut_problem(
    blocks: Blocks,
    x: Array,
    y: Array,
    *,
    predicted: Array,
    kind: Kind,
    reads: tuple[str, str],
) -> Problem:
    """Cut inputs (time, channel) and targets (time, dim) into the blocks of a problem.

    Raises:
        ValueError: A part whose blocks hold no sample with a target.
    """
    truth = np.concatenate([y[block] for block in blocks.test])
    kept = ~np.isnan(truth).any(axis=1)
    return Problem(
        train=_stretches(x, y, blocks.train),
        validation=_stretches(x, y, blocks.validation),
        test=[x[block] for block in blocks.test],
        kept=kept,
        truth=truth[kept],
        predicted=predicted[kept],
        kind=kind,
        reads=reads,
    )


def _stretches(x: Array, y: Array, blocks: tuple[slice, ...]) -> Pairs:
    """Cut the blocks where targets are missing: a lag must not jump over what is left out."""
    pairs = []
    for block in blocks:
        present = ~np.isnan(y[block]).any(axis=1)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], present, [False]]).astype(int)))
        for start, stop in edges.reshape(-1, 2):
            pairs.append((x[block][start:stop], y[block][start:stop]))
    if blocks and not pairs:
        raise ValueError("a part of the session has no sample with a target; all are NaN")
    return pairs


def _rows(task: str, session: Session, n_classes: int) -> Array:
    """Targets as rows (time, dim): numbers as they are, labels with one column per class."""
    if session.targets is None:
        raise ValueError(f"{task} needs targets, {session.name!r} has none")
    if session.labelled:
        return one_hot(session.targets, n_classes)
    return np.asarray(session.targets, dtype=np.float64)


def _n_samples(session: Session, part: str) -> int:
    return sum(block.stop - block.start for block in dict(session.blocks)[part])
