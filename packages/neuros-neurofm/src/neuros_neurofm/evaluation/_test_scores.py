"""Scores of decoded test blocks, with their intervals."""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation._decode import decode
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


def check_continuous(session: Session) -> None:
    """Refuse sessions that R2 cannot score."""
    if session.targets is None or session.labelled:
        given = "integer labels" if session.labelled else "none"
        raise ValueError(
            f"the session {session.name!r} needs continuous targets (time, dim), got {given}"
        )
    if not session.blocks.test:
        raise ValueError(f"the session {session.name!r} has no test block; give it one")


def score_decoding(
    model: MultiModalNeuroFMX, session: Session, *, n_bootstrap: int, generator: Generator
) -> Score:
    """R2 of the decoded targets of the test blocks."""
    blocks = session.blocks.test
    truth = np.concatenate([np.asarray(part.targets) for part in session.part("test")])
    scored = np.concatenate([session.scored()[block] for block in blocks])
    predicted = decode(model, session)
    return score_r2(truth[scored], predicted[scored], n_bootstrap=n_bootstrap, generator=generator)


def score_r2(truth: Array, predicted: Array, *, n_bootstrap: int, generator: Generator) -> Score:
    """R2 with a 95 % interval from blocks of a twentieth of the samples."""
    found = block_bootstrap(
        r2_score,
        [truth, predicted],
        block_length=max(len(truth) // 20, 1),
        generator=generator,
        n_resamples=n_bootstrap,
    )
    return Score(found.estimate, found.low, found.high)


def retained(score: float, reference: float) -> tuple[float, str | None]:
    """Ratio of two scores, or NaN and the reason."""
    if reference < LEAST_REFERENCE:
        return float("nan"), (
            f"the score to compare with is {reference:.3f}, less than {LEAST_REFERENCE}: a ratio "
            "of it would be noise"
        )
    return score / reference, None
