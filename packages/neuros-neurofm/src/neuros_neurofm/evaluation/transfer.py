"""What is learned on one modality or session, scored on another."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation._canonical import canonical_transfer
from neuros_neurofm.evaluation._decode import run_blocks
from neuros_neurofm.evaluation._test_scores import (
    chance_score,
    check_continuous,
    check_targets,
    metric_of,
    retained,
    score_decoding,
    score_r2,
)
from neuros_neurofm.evaluation.linear_decoders import RidgeDecoder
from neuros_neurofm.evaluation.session import Session
from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX

__all__ = ["CrossModalTransfer", "TransferMatrix", "cross_modal_transfer", "transfer_matrix"]


class CrossModalTransfer(NamedTuple):
    """How a read-out of one modality's latents does on those of another.

    Attributes:
        retention: `transferred[0] / own[0]`; NaN where that would be noise.
        transferred: R2 on the target's test blocks of the head fitted on the source, and the ends
            of its 95 % interval.
        own: The same of the head fitted on the target.
        reason: Why there is no retention, or None.
        cca: The same without a model, by canonical correlation and ridge regression; None where
            the two sessions are not one recording.
    """

    retention: float
    transferred: tuple[float, float, float]
    own: tuple[float, float, float]
    reason: str | None
    cca: tuple[float, float, float] | None


class TransferMatrix(NamedTuple):
    """Score of every model on every session.

    Attributes:
        scores: R2, or balanced accuracy of labels, on the test blocks, (model, session).
        low: Lower ends of the 95 % intervals, (model, session).
        high: Upper ends, (model, session).
        sessions: Names of the sessions, (session,).
        metric: `R2` or `balanced accuracy`.
        chance: Score of a constant answer: 0 for R2, one over the number of classes for labels,
            (session,).
    """

    scores: Array
    low: Array
    high: Array
    sessions: tuple[str, ...]
    metric: str
    chance: Array


def cross_modal_transfer(
    model: MultiModalNeuroFMX,
    src: Session,
    tgt: Session,
    *,
    generator: Generator,
    n_bootstrap: int = 1000,
) -> CrossModalTransfer:
    r"""Fit a linear head on latents of one modality and score it on latents of another.

    Retention is $R^2(\mathrm{tgt} \mid \mathrm{src\ head}) / R^2(\mathrm{tgt} \mid
    \mathrm{own\ head})$. Both heads are a `RidgeDecoder` on the latent that is complete at each
    sample, fitted on training blocks and scored on the test blocks of `tgt`; samples before the
    first latent of a block are left out. The ratio is refused where the score of the own head is
    below 0.1.

    Where both sessions are one recording, with the same blocks and targets, a transfer without any
    model stands beside it: canonical correlations align the two inputs on the training blocks, a
    ridge regression is fitted on the aligned source and reads the aligned target.

    Give the same recording twice with different inputs, such as
    `dataclasses.replace(session, inputs={"lfp": ...}, units=None)`, or two recordings with the same
    targets.

    Args:
        model: With a window in seconds and the rates of its modalities; it is not trained.
        src: Session with the source's inputs.
        tgt: Session with the target's inputs and targets of the same meaning.
        generator: Draws the intervals.
        n_bootstrap: Resamples of the intervals.

    Returns:
        The scores and their ratio.

    Raises:
        ValueError: Labels or no targets, targets of unequal width, a session without test block,
            blocks without a scored sample after the first latent, or what `decode` refuses.

    Examples:
        >>> import numpy as np
        >>> from neuros_neurofm.evaluation.session import contiguous_blocks
        >>> model = MultiModalNeuroFMX(
        ...     16, 1, 8, 8, modalities=("lfp",), window=0.16, sampling_rates={"lfp": 50.0})
        >>> rng = np.random.default_rng(0)
        >>> session = Session(
        ...     {"lfp": rng.normal(size=(400, 2))}, rng.normal(size=400), 50.0,
        ...     contiguous_blocks(400, gap=10))
        >>> result = cross_modal_transfer(
        ...     model, session, session, generator=rng, n_bootstrap=20)
        >>> result.transferred[0] == result.own[0], result.retention, result.reason is None
        (True, nan, False)

    References:
        Azabou, M. et al. (2023). A unified, scalable framework for neural population decoding.
        NeurIPS. https://doi.org/10.48550/arXiv.2310.16046
    """
    for session in (src, tgt):
        check_continuous(session)
    if src.n_targets != tgt.n_targets:
        raise ValueError(
            f"src and tgt must have targets of one width, got {src.n_targets} and {tgt.n_targets}"
        )
    test = _latents(model, tgt, "test")
    truth = np.concatenate([targets for _, targets in test])
    scores = []
    for session in (src, tgt):
        pairs = _latents(model, session, "train")
        head = RidgeDecoder().fit([z for z, _ in pairs], [y for _, y in pairs])
        predicted = np.concatenate([head.predict(z) for z, _ in test])
        scores.append(score_r2(truth, predicted, n_bootstrap=n_bootstrap, generator=generator))
    transferred, own = scores
    retention, reason = retained(transferred.estimate, own.estimate)
    cca = None
    if _one_recording(src, tgt):
        kept = np.concatenate([tgt.scored()[block] for block in tgt.blocks.test])
        aligned = canonical_transfer(src, tgt)[kept]
        truth = np.concatenate([np.asarray(part.targets) for part in tgt.part("test")])[kept]
        cca = score_r2(truth, aligned, n_bootstrap=n_bootstrap, generator=generator)
    return CrossModalTransfer(retention, transferred, own, reason, cca)


def transfer_matrix(
    models: Sequence[MultiModalNeuroFMX],
    sessions: Sequence[Session],
    *,
    generator: Generator,
    n_bootstrap: int = 1000,
) -> TransferMatrix:
    """Score every model on the test blocks of every session.

    With model i trained on session i the diagonal is the score at home and the rest what carries
    over. Channels that a model does not know are read through vectors inferred from their data.

    Args:
        models: Trained models with the same decoded variables.
        sessions: Sessions with targets of one kind: numbers, scored by R2, or integer labels,
            scored by `balanced_accuracy`.
        generator: Draws the intervals.
        n_bootstrap: Resamples of the intervals.

    Returns:
        The scores.

    Raises:
        ValueError: No model or session, no targets or numbers beside labels, a session without test
            block, targets of another width than the decoder's, or what `decode` refuses.

    Examples:
        >>> import numpy as np
        >>> from neuros_neurofm.evaluation.session import contiguous_blocks
        >>> models = [MultiModalNeuroFMX(
        ...     16, 1, 8, 8, modalities=("lfp",), behavior_dim=1, window=0.16,
        ...     sampling_rates={"lfp": 50.0}) for _ in range(2)]
        >>> x = np.random.default_rng(0).normal(size=(200, 2))
        >>> session = Session({"lfp": x}, x[:, 0], 50.0, contiguous_blocks(200, gap=10))
        >>> transfer_matrix(
        ...     models, [session], generator=np.random.default_rng(0), n_bootstrap=20).scores.shape
        (2, 1)
    """
    if not models or not sessions:
        raise ValueError(
            f"at least one model and one session are needed, got {len(models)} and {len(sessions)}"
        )
    for session in sessions:
        check_targets(session)
    metrics = sorted({metric_of(session) for session in sessions})
    if len(metrics) > 1:
        raise ValueError(
            "the targets of all sessions must be numbers, or labels in all; one table cannot hold "
            f"{' and '.join(metrics)}"
        )
    table = np.array(
        [
            [score_decoding(m, s, n_bootstrap=n_bootstrap, generator=generator) for s in sessions]
            for m in models
        ]
    )
    names = tuple(session.name for session in sessions)
    chance = np.array([chance_score(session) for session in sessions])
    return TransferMatrix(table[..., 0], table[..., 1], table[..., 2], names, metrics[0], chance)


def _one_recording(a: Session, b: Session) -> bool:
    same = np.array_equal(np.asarray(a.targets), np.asarray(b.targets), equal_nan=True)
    return a.blocks == b.blocks and a.rate == b.rate and same


def _latents(model: MultiModalNeuroFMX, session: Session, part: str) -> list[tuple[Array, Array]]:
    """Latents (time, latent_dim) and targets (time, dim) of the scored samples of every block.

    Causal: the latest latent that is complete at the end of the sample. Otherwise that of its step.
    """
    pairs = []
    for output, piece in zip(run_blocks(model, session, part), session.part(part), strict=True):
        grid = output.times.cpu().numpy()
        steps = (np.arange(len(np.asarray(piece.targets))) + 1.0) / session.rate / grid[0]
        # 1e-6 of a step: the rounding of a time must not move a sample to the next latent.
        index = np.floor(steps + 1e-6) if model.causal else np.ceil(steps - 1e-6)
        index = np.minimum(index.astype(np.int64), len(grid)) - 1
        kept = (index >= 0) & session.scored()[piece.block]
        latents = output.latents[0].double().cpu().numpy()
        pairs.append((latents[index[kept]], np.asarray(piece.targets)[kept]))
    if not sum(len(targets) for _, targets in pairs):
        raise ValueError(
            f"no sample of {part} of the session {session.name!r} is scored after the first latent "
            "of its block; give it longer blocks"
        )
    return [(latents, targets) for latents, targets in pairs if len(targets)]
