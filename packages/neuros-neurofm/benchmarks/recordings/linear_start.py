"""The model on top of a linear decoder, and rows that pool several splits of one recording."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from ours import Setting, build, size_of
from protocol import Array, Candidate, Fitted, Predict, Row, choose, r2, seconds_of, truth
from torch import Generator

from neuros_neurofm.augmentation import UnitDropout
from neuros_neurofm.evaluation import Session, block_bootstrap
from neuros_neurofm.evaluation.linear_skip import LinearSkipDecoder

__all__ = ["better", "fixed_r2", "on_linear", "pooled_row"]


def fixed_r2(session_targets: Array) -> Callable[[Array, Array], float]:
    """R2 against the variance of all the test samples.

    A resample of a few blocks may hold no movement at all, and R2 divides by its variance.
    """
    variance = np.nanvar(session_targets, axis=0)

    def score(wanted: Array, predicted: Array) -> float:
        return float(np.mean(1.0 - np.mean((wanted - predicted) ** 2, axis=0) / variance))

    return score


def on_linear(
    session: Session, settings: Sequence[Setting], *, lags: Sequence[int], seed: int
) -> Fitted:
    """The model learns what a linear decoder with one of `lags` leaves; validation chooses."""
    steps: list[str] = []
    fit = choose(
        "neurofm",
        [
            Candidate(str(s), partial(_fit, session, s, steps, lags=lags, seed=seed))
            for s in settings
        ],
        session,
    )
    kept = f"on a linear decoder, kept steps {', '.join(steps)}"
    # Step 0 is the linear decoder itself.
    nothing = "" if any(step != "0" for step in steps) else ", so the network adds nothing"
    return fit._replace(note=f"{kept}{nothing}; {fit.note}")


def better(alone: Fitted, on_top: Fitted, session: Session) -> Fitted:
    """The one that the validation blocks prefer; it took the time of both."""
    wanted = truth(session, "validation")
    fits = (alone._replace(note=f"alone; {alone.note}"), on_top)
    scores = [r2(wanted, fit.predict("validation")) for fit in fits]
    best = int(np.argmax(scores))
    other = f"{('alone', 'on a linear decoder')[1 - best]} {scores[1 - best]:.3f}"
    note = f"{fits[best].note}; validation {other}"
    return fits[best]._replace(seconds=alone.seconds + on_top.seconds, note=note)


def _fit(
    session: Session, setting: Setting, steps: list[str], *, lags: Sequence[int], seed: int
) -> tuple[Predict, int]:
    model = build([session], setting, seed=seed)
    decoder = LinearSkipDecoder(model, n_lags=lags)
    fit = decoder.fit(
        session,
        steps=setting.steps,
        learning_rate=setting.learning_rate,
        weight_decay=setting.weight_decay,
        patience=setting.steps,
        batch_size=8,
        masker=UnitDropout(setting.unit_dropout) if setting.unit_dropout else None,
        generator=Generator().manual_seed(seed),
    )
    steps.append(str(fit.best_step))
    n_linear = max(lags) * sum(x.shape[1] for x in session.inputs.values()) * session.n_targets
    return partial(decoder.decode, session), size_of(model) + n_linear


def pooled_row(
    task: str,
    split: str,
    fits: Sequence[Fitted],
    sessions: Sequence[Session],
    *,
    seed: int,
    block_s: float,
) -> Row:
    """One decoder on several splits of one recording: its R2 over all test blocks together."""
    wanted = np.concatenate([truth(session, "test") for session in sessions])
    predicted = np.concatenate([fit.predict("test") for fit in fits])
    interval = block_bootstrap(
        fixed_r2(wanted),
        [wanted, predicted],
        block_length=max(round(block_s * sessions[0].rate), 1),
        generator=np.random.default_rng(0),
    )
    return Row(
        task,
        split,
        fits[0].name,
        "R2",
        interval.estimate,
        interval.low,
        interval.high,
        float(np.mean([seconds_of(session, "train") for session in sessions])),
        sum(seconds_of(session, "test") for session in sessions),
        fits[0].n_parameters,
        sum(fit.seconds for fit in fits),
        seed,
        " / ".join(fit.note for fit in fits),
    )
