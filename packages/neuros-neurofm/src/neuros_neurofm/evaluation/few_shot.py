"""How much of a recording a model needs before it decodes it."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation._decode import fit_decoder
from neuros_neurofm.evaluation._fine_tune import add_unknown_units
from neuros_neurofm.evaluation._test_scores import (
    chance_score,
    check_targets,
    metric_of,
    retained,
    score_decoding,
)
from neuros_neurofm.evaluation.session import Blocks, Session
from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX

__all__ = ["FewShotCurve", "few_shot_curve"]


class FewShotCurve(NamedTuple):
    r"""Scores by the share of the training data.

    Attributes:
        fractions: Shares, ascending; the last is 1, (fraction,).
        n_samples: Samples of training blocks behind each score, (fraction,).
        scores: R2, or balanced accuracy of labels, on the test blocks, (fraction,).
        low: Lower ends of the 95 % intervals, (fraction,).
        high: Upper ends, (fraction,).
        retention: Each score over that of all data, both less chance, (fraction,); NaN with a
            reason.
        reason: Why there is no retention, or None.
        scratch: The curve of the untrained model, where one was given.
        metric: `R2` or `balanced accuracy`.
        chance: Score of a constant answer: 0 for R2, one over the number of classes for labels.
    """

    fractions: Array
    n_samples: Array
    scores: Array
    low: Array
    high: Array
    retention: Array
    reason: str | None
    scratch: "FewShotCurve | None" = None
    metric: str = "R2"
    chance: float = 0.0


def few_shot_curve(
    model: MultiModalNeuroFMX,
    data: Session,
    fractions: Sequence[float] = (0.01, 0.05, 0.1, 0.25, 1.0),
    *,
    generator: Generator,
    fit: Callable[[MultiModalNeuroFMX, Session], object] = fit_decoder,
    n_bootstrap: int = 1000,
    scratch: MultiModalNeuroFMX | None = None,
) -> FewShotCurve:
    r"""Finetune copies of a model on the beginning of a recording and score them on one test block.

    The score of share f comes from a copy that has seen the first f of the training blocks and the
    first f of the validation blocks, and nothing else of the session: an early stop reads labels,
    too. Channels whose ids the model does not know get vectors inferred from the same training
    samples. The test blocks are the same for all. Retention is $(s(f) - c) / (s(1) - c)$, refused
    where $s(1) - c < 0.1$. Numbers are scored by R2 and $c = 0$; integer labels by
    `balanced_accuracy`, of which a constant answer gets $c = 1/K$ with K classes.

    What pretraining gives is the difference to an untrained model of the same sizes: pass it as
    `scratch`, and its curve comes along.

    Args:
        model: Pretrained on other sessions; it stays as it is.
        data: The session, with numbers or integer labels as targets.
        fractions: Shares of the training data in (0, 1]; 1 must be one of them.
        generator: Draws the intervals.
        fit: Trains a copy on the session it is given, in place, such as `fine_tune`, or
            `functools.partial(fit_decoder, steps=100)`.
        n_bootstrap: Resamples of the interval.
        scratch: An untrained model; it stays as it is, and is trained and scored the same way.

    Returns:
        The curve.

    Raises:
        ValueError: Shares out of range or without 1, no targets, no test block, or a label beyond
            the classes of the model.

    Examples:
        >>> from functools import partial
        >>> import numpy as np
        >>> from neuros_neurofm.evaluation.session import contiguous_blocks
        >>> model = MultiModalNeuroFMX(
        ...     16, 1, 8, 8, modalities=("lfp",), behavior_dim=1, window=0.16,
        ...     sampling_rates={"lfp": 50.0})
        >>> x = np.random.default_rng(0).normal(size=(400, 2))
        >>> session = Session({"lfp": x}, x[:, 0], 50.0, contiguous_blocks(400, gap=10))
        >>> curve = few_shot_curve(
        ...     model, session, (0.5, 1.0), generator=np.random.default_rng(0),
        ...     fit=partial(fit_decoder, steps=2), n_bootstrap=20)
        >>> curve.n_samples.tolist(), curve.reason is None
        ([114.0, 228.0], False)
    """
    shares = sorted(set(fractions))
    if 1.0 not in shares or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"fractions must lie in (0, 1] and hold 1, got {list(fractions)}")
    check_targets(data)
    scores, n_samples = [], []
    for share in shares:
        session = _beginning(data, share)
        learner = copy.deepcopy(model)
        add_unknown_units(learner, session)
        fit(learner, session)
        scores.append(score_decoding(learner, data, n_bootstrap=n_bootstrap, generator=generator))
        n_samples.append(sum(block.stop - block.start for block in session.blocks.train))
    beside = None
    if scratch is not None:
        beside = few_shot_curve(
            scratch, data, shares, generator=generator, fit=fit, n_bootstrap=n_bootstrap
        )
    chance = chance_score(data)
    ratios = [retained(score.estimate, scores[-1].estimate, chance) for score in scores]
    estimates, low, high = (np.array(column) for column in zip(*scores, strict=True))
    return FewShotCurve(
        np.array(shares),
        np.array(n_samples, dtype=np.float64),
        estimates,
        low,
        high,
        np.array([ratio for ratio, _ in ratios]),
        ratios[-1][1],
        beside,
        metric_of(data),
        chance,
    )


def _beginning(session: Session, share: float) -> Session:
    """The session without test blocks, and without targets after the beginning of each part."""
    blocks = Blocks(_first(session.blocks.train, share), _first(session.blocks.validation, share))
    # What is not scored is -1 among labels and NaN among numbers.
    nothing = -1 if session.labelled else np.nan
    targets = np.full_like(np.asarray(session.targets), nothing)
    for _, pieces in blocks:
        for piece in pieces:
            targets[piece] = np.asarray(session.targets)[piece]
    return replace(session, blocks=blocks, targets=targets)


def _first(blocks: Sequence[slice], share: float) -> tuple[slice, ...]:
    left = math.ceil(share * sum(block.stop - block.start for block in blocks) - 1e-9)
    kept = []
    for block in sorted(blocks, key=lambda block: int(block.start)):
        n = min(left, block.stop - block.start)
        if n:
            kept.append(slice(block.start, block.start + n))
        left -= n
    return tuple(kept)
