"""How a recording is split, how decoders are chosen, and the rows that a table is made of.

Every decoder of a task sees the same split. What a decoder leaves open is chosen by its score on
the validation blocks; test blocks are scored once, with what was chosen.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neuros_neurofm.evaluation import (
    Blocks,
    NeuralDecoder,
    RidgeDecoder,
    Session,
    WienerDecoder,
    block_bootstrap,
    r2_score,
)
from neuros_neurofm.evaluation._cebra import CEBRADecoder, has_cebra

Array: TypeAlias = NDArray[np.float64]
Predict: TypeAlias = Callable[[str], Array]

_N_BOOTSTRAP = 1000
# Ends the name of a decoder that sees samples after the present one, as no other does.
AHEAD = "ahead"


@dataclass(frozen=True, slots=True)
class Row:
    """One decoder on one split: its score with a 95 % interval, and what it cost."""

    task: str
    split: str
    model: str
    metric: str
    score: float
    low: float
    high: float
    n_train_s: float
    n_test_s: float
    n_parameters: int
    seconds: float
    seed: int
    note: str


class Task(NamedTuple):
    """A recording and what is decoded from it; `run(folder of the recordings, seed)`.

    `run_cebra` gives the rows of CEBRA alone, whose package may not be there.
    """

    name: str
    what: str
    run: Callable[[Path, int], list[Row]]
    run_cebra: Callable[[Path, int], list[Row]] | None = None


class Fitted(NamedTuple):
    """A decoder that was fitted and chosen.

    Attributes:
        name: Name in the table.
        predict: Part of the session -> predictions of its blocks one after the other, (time, dim).
        n_parameters: Fitted numbers.
        seconds: What fitting all candidates took.
        note: What validation chose, among what.
    """

    name: str
    predict: Predict
    n_parameters: int
    seconds: float
    note: str


class Candidate(NamedTuple):
    """One setting of a decoder: `fit()` returns its predictions by part, and its size."""

    setting: str
    fit: Callable[[], tuple[Predict, int]]


def alternating_blocks(
    n_times: int, *, n_rounds: int, gap: int, ratios: Sequence[float] = (0.6, 0.15, 0.25)
) -> Blocks:
    """Training, validation and test block in turn, `n_rounds` times, a gap between any two.

    A recording drifts: with several rounds every part has samples of early and late.
    """
    parts: tuple[list[slice], list[slice], list[slice]] = ([], [], [])
    edges = np.linspace(0, n_times + gap, n_rounds + 1).astype(int)
    for first, last in pairwise(edges):
        # A gap follows every block; that of the last one lies beyond the end.
        free = last - first - 3 * gap
        stops = first + np.round(np.cumsum(ratios) * free).astype(int) + gap * np.arange(3)
        starts = [first, *(stops[:-1] + gap)]
        for part, start, stop in zip(parts, starts, stops, strict=True):
            part.append(slice(int(start), int(min(stop, n_times))))
    return Blocks(*(tuple(part) for part in parts))


def truth(session: Session, part: str) -> Array:
    """Targets of the blocks of a part, (time, dim); NaN where there is none."""
    targets = np.asarray(session.targets, dtype=np.float64).reshape(session.n_times, -1)
    return np.concatenate([targets[block] for block in dict(session.blocks)[part]])


def inputs(session: Session) -> Array:
    """All channels of all modalities, (time, channel)."""
    return np.concatenate([np.asarray(x, np.float64) for x in session.inputs.values()], axis=1)


def r2(wanted: Array, predicted: Array) -> float:
    """R2 over the samples that have a target, the mean over its variables."""
    kept = ~np.isnan(wanted).any(axis=1)
    return float(r2_score(wanted[kept], predicted[kept]))


def seconds_of(session: Session, part: str) -> float:
    """Length of the blocks of a part."""
    return float(sum(block.stop - block.start for block in dict(session.blocks)[part])) / (
        session.rate
    )


def choose(
    name: str, candidates: Iterable[Candidate], session: Session, score: Callable[..., float] = r2
) -> Fitted:
    """Fit every candidate on training blocks and keep the best one of the validation blocks."""
    start = time.perf_counter()
    held_out = truth(session, "validation")
    best, kept, settings = -np.inf, None, []
    for candidate in candidates:
        predict, size = candidate.fit()
        found = score(held_out, predict("validation"))
        settings.append(candidate.setting)
        if found > best:
            best, kept = found, (candidate.setting, predict, size)
    if kept is None:
        raise ValueError(f"{name}: no candidate has a finite score on the validation blocks")
    setting, predict, size = kept
    note = f"validation {best:.3f}: {setting}" + (
        f" (of {len(settings)} settings)" if len(settings) > 1 else ""
    )
    return Fitted(name, predict, size, time.perf_counter() - start, note)


def score_row(
    task: str,
    split: str,
    fitted: Fitted,
    session: Session,
    *,
    seed: int,
    block_s: float,
    metric: str = "R2",
    score: Callable[..., float] = r2,
) -> Row:
    """Score a fitted decoder on the test blocks, with its 95 % block-bootstrap interval."""
    wanted, predicted = truth(session, "test"), fitted.predict("test")
    interval = block_bootstrap(
        score,
        [wanted, predicted],
        block_length=max(round(block_s * session.rate), 1),
        generator=np.random.default_rng(0),
        n_resamples=_N_BOOTSTRAP,
    )
    return Row(
        task,
        split,
        fitted.name,
        metric,
        interval.estimate,
        interval.low,
        interval.high,
        seconds_of(session, "train"),
        seconds_of(session, "test"),
        fitted.n_parameters,
        fitted.seconds,
        seed,
        fitted.note,
    )


def smoothed(x: Array, tau: float) -> Array:
    """Causal exponential filter of `tau` samples along time; it starts as if x[0] had lasted."""
    if tau == 0:
        return x
    from scipy.signal import lfilter

    keep = float(np.exp(-1.0 / tau))
    return np.asarray(lfilter([1.0 - keep], [1.0, -keep], x, axis=0, zi=keep * x[:1])[0])


def linear(
    name: str, session: Session, decoders: Mapping[str, tuple[float, WienerDecoder]]
) -> Fitted:
    """Linear decoders: setting -> (samples of the filter in front, decoder)."""
    x = inputs(session)

    def fit(tau: float, decoder: WienerDecoder) -> tuple[Predict, int]:
        def filtered(part: str) -> list[Array]:
            return [smoothed(x[block], tau) for block in dict(session.blocks)[part]]

        pairs = _with_targets(session, filtered("train"), "train")
        decoder.fit(*pairs)
        size = (decoder.n_lags * x.shape[1] + 1) * session.n_targets
        return lambda part: np.concatenate([decoder.predict(p) for p in filtered(part)]), size

    candidates = [
        Candidate(setting, partial(fit, tau, decoder))
        for setting, (tau, decoder) in decoders.items()
    ]
    return choose(name, candidates, session)


def ridge(session: Session, taus_s: Sequence[float]) -> Fitted:
    """Ridge regression on the present input behind a causal filter of the chosen seconds."""
    decoders = {}
    for tau_s in taus_s:
        tau = tau_s * session.rate
        decoders[f"filter {tau_s:g} s"] = (tau, RidgeDecoder(gap=round(3 * tau)))
    return linear("ridge", session, decoders)


def wiener(session: Session, lags: Sequence[int]) -> Fitted:
    """Ridge regression on the chosen number of present and past samples."""
    return linear("Wiener", session, {f"{n} lags": (0.0, WienerDecoder(n)) for n in lags})


def neural(
    architecture: str,
    session: Session,
    *,
    windows: Sequence[int],
    n_parameters: int,
    steps: int = 300,
    taus_s: Sequence[float] = (0.0,),
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2),
    seed: int = 0,
) -> Fitted:
    """GRU or transformer of at most `n_parameters`; validation chooses window, rate and step."""
    x = inputs(session)

    def fit(window: int, tau_s: float) -> tuple[Predict, int]:
        def filtered(part: str) -> list[Array]:
            blocks = dict(session.blocks)[part]
            return [smoothed(x[block], tau_s * session.rate) for block in blocks]

        decoder = NeuralDecoder(
            architecture,
            window=window,
            n_parameters=n_parameters,
            steps=steps,
            learning_rates=learning_rates,
            seed=seed,
        )
        a, b = _with_targets(session, filtered("train"), "train")
        held_a, held_b = _with_targets(session, filtered("validation"), "validation")
        decoder.fit(a, b, x_validation=held_a, y_validation=held_b)
        return lambda part: np.concatenate([decoder.predict(p) for p in filtered(part)]), (
            n_parameters
        )

    candidates = [
        Candidate(f"window {window}, filter {tau_s:g} s", partial(fit, window, tau_s))
        for window in windows
        for tau_s in taus_s
    ]
    name = "GRU" if architecture == "gru" else "transformer"
    return choose(name, candidates, session)


def cebra(session: Session, *, steps: int = 1000) -> list[Fitted]:
    """Neighbours in CEBRA embeddings, causal and not, where the package is there.

    Validation chooses the number of neighbours, and of the causal ones the architecture: the
    present sample alone, or 10 of which it is the last. As it is meant, 4 of these lie in the
    future: that decoder sees more than the others. The package cannot be seeded.
    """
    if not has_cebra():
        return []
    x, blocks = inputs(session), dict(session.blocks)
    pairs = _with_targets(session, [x[block] for block in blocks["train"]], "train")

    def candidates(architectures: Sequence[str], *, causal: bool) -> Iterable[Candidate]:
        for name in architectures:
            decoder = CEBRADecoder(steps=steps, architecture=name, causal=causal)
            decoder.fit(*pairs)
            for count in decoder.counts():
                yield Candidate(f"{name}, {count} neighbours", partial(fit, decoder, count))

    def fit(decoder: CEBRADecoder, count: int) -> tuple[Predict, int]:
        def predict(part: str) -> Array:
            decoder.with_neighbours(count)
            return np.concatenate([decoder.predict(x[block]) for block in blocks[part]])

        return predict, decoder.n_parameters

    name = f"CEBRA {version('cebra')}"
    found = [
        choose(name, candidates(("offset1-model", "offset10-model"), causal=True), session),
        choose(
            f"{name}, {4 / session.rate:g} s {AHEAD}",
            candidates(("offset10-model",), causal=False),
            session,
        ),
    ]
    return [fitted._replace(note=f"{fitted.note}; {steps} steps, not seeded") for fitted in found]


def _with_targets(
    session: Session, x: Sequence[Array], part: str
) -> tuple[list[Array], list[Array]]:
    """Stretches of the blocks that have targets: a lag must not jump over what is left out."""
    targets = np.asarray(session.targets, dtype=np.float64).reshape(session.n_times, -1)
    a, b = [], []
    for values, block in zip(x, dict(session.blocks)[part], strict=True):
        y = targets[block]
        there = np.concatenate([[False], ~np.isnan(y).any(axis=1), [False]])
        edges = np.flatnonzero(np.diff(there.astype(int)))
        for start, stop in edges.reshape(-1, 2):
            a.append(values[start:stop])
            b.append(y[start:stop])
    return a, b
