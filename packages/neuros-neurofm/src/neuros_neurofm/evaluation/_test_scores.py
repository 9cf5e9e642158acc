"""Scores of decoded test blocks, with their intervals."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation._decode import decode
from neuros_neurofm.evaluation._labels import chance_of, one_hot, score_classes
from neuros_neurofm.evaluation.bootstrap import block_bootstrap
from neuros_neurofm.evaluation.metrics import r2_score
from neuros_neurofm.evaluation.session import Session
from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX

# A ratio of scores says nothing where the one below is about the noise of a test block.
LEAST_REFERENCE = 0.1


class Score(NamedTuple):
    """A score and its interval."""

    estimate: float
    low: float
    high: float


def check_targets(session: Session) -> None:
    """Refuse sessions whose decoding cannot be scored."""
    if session.targets is None:
        raise ValueError(
            f"the session {session.name!r} needs targets, numbers (time, dim) or integer labels "
            "(time,), got none"
        )
    if not session.blocks.test:
        raise ValueError(f"the session {session.name!r} has no test block; give it one")


def check_continuous(session: Session) -> None:
    """Refuse sessions that R2 cannot score."""
    if session.targets is None or session.labelled:
        given = "integer labels" if session.labelled else "none"
        raise ValueError(
            f"the session {session.name!r} needs continuous targets (time, dim), got {given}"
        )
    check_targets(session)


def metric_of(session: Session) -> str:
    """Name of the score of a session's targets."""
    return "balanced accuracy" if session.labelled else "R2"


def chance_score(session: Session) -> float:
    """Score of a constant answer on the test blocks: 0 for numbers (of their own mean)."""
    if not session.labelled:
        return 0.0
    return chance_of(np.concatenate([np.asarray(part.targets) for part in session.part("test")]))


def score_decoding(
    model: MultiModalNeuroFMX, session: Session, *, n_bootstrap: int, generator: Generator
) -> Score:
    """Score the decoded targets of the test blocks."""
    predicted = decode(model, session)
    return score_predicted(session, predicted, n_bootstrap=n_bootstrap, generator=generator)


def score_predicted(
    session: Session, predicted: Array, *, n_bootstrap: int, generator: Generator
) -> Score:
    """Score what a decoder says about all test samples: (time, dim), or logits (time, class)."""
    truth = np.concatenate([np.asarray(part.targets) for part in session.part("test")])
    scored = np.concatenate([session.scored()[block] for block in session.blocks.test])
    truth, predicted = truth[scored], predicted[scored]
    if session.labelled:
        truth = one_hot(truth, predicted.shape[1])
        return _with_interval(score_classes, truth, predicted, n_bootstrap, generator)
    return score_r2(truth, predicted, n_bootstrap=n_bootstrap, generator=generator)


def score_r2(truth: Array, predicted: Array, *, n_bootstrap: int, generator: Generator) -> Score:
    """R2 with a 95 % interval from blocks of a twentieth of the samples."""
    return _with_interval(r2_score, truth, predicted, n_bootstrap, generator)


def retained(score: float, reference: float, chance: float = 0.0) -> tuple[float, str | None]:
    """Ratio of what two scores have above chance, or NaN and the reason."""
    if reference - chance < LEAST_REFERENCE:
        above = f" above the chance of {chance:.3f}" if chance else ""
        return float("nan"), (
            f"the score to compare with is {reference:.3f}, less than {LEAST_REFERENCE}{above}: "
            "a ratio of it would be noise"
        )
    return (score - chance) / (reference - chance), None


def _with_interval(
    statistic: Callable[..., float],
    truth: Array,
    predicted: Array,
    n_bootstrap: int,
    generator: Generator,
) -> Score:
    found = block_bootstrap(
        statistic,
        [truth, predicted],
        block_length=max(len(truth) // 20, 1),
        generator=generator,
        n_resamples=n_bootstrap,
    )
    return Score(found.estimate, found.low, found.high)
