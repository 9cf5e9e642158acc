"""What the benchmark and `neurofm-eval` share: scores of several decoders on one problem."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation._baselines import predict_mean
from neuros_neurofm.evaluation._suite_result import BenchmarkScore
from neuros_neurofm.evaluation._tasks import Problem
from neuros_neurofm.evaluation.bootstrap import block_bootstrap

__all__ = ["Uncertainty", "predict_constant", "score_all"]


class Uncertainty(NamedTuple):
    """How intervals are drawn: seconds per block, resamples and seed."""

    block_s: float
    n_resamples: int
    seed: int


def predict_constant(problem: Problem) -> dict[str, Array]:
    """The answer that reads nothing, under its name: `mean`, or `chance` of labels."""
    return {"chance" if problem.kind == "labels" else "mean": predict_mean(problem)}


def score_all(
    problem: Problem,
    predicted: Mapping[str, Array],
    what: tuple[str, str, float],
    uncertainty: Uncertainty,
) -> list[BenchmarkScore]:
    """Score every decoder on the test samples, with its interval and the lead of the model.

    Args:
        problem: The test samples, and what the model says of them.
        predicted: What each decoder says of them, the model first.
        what: Task, session and samples per second.
        uncertainty: Of the intervals.

    Raises:
        ValueError: Test samples for less than two blocks of the bootstrap.
    """
    task, session, rate = what
    length = max(round(uncertainty.block_s * rate), 1)
    if len(problem.truth) < 2 * length:
        raise ValueError(
            f"{session!r} has {len(problem.truth)} scored test samples, fewer than two "
            f"bootstrap blocks of {length}; take shorter ones or longer test blocks"
        )

    def interval(
        statistic: Callable[..., float], arrays: Sequence[Array]
    ) -> tuple[float, float, float]:
        # The same seed, so the same blocks, for every decoder.
        found = block_bootstrap(
            statistic,
            arrays,
            block_length=length,
            generator=np.random.default_rng(uncertainty.seed),
            n_resamples=uncertainty.n_resamples,
        )
        return found.estimate, found.low, found.high

    def lead(truth: Array, ours: Array, theirs: Array) -> float:
        return problem.score(truth, ours) - problem.score(truth, theirs)

    return [
        BenchmarkScore(
            task,
            session,
            name,
            _reads(name, problem),
            problem.metric,
            *interval(problem.score, [problem.truth, values]),
            *interval(lead, [problem.truth, problem.predicted, values]),
        )
        for name, values in predicted.items()
    ]


def _reads(name: str, problem: Problem) -> str:
    if name in ("mean", "chance"):
        return "nothing"
    return problem.reads[0 if name == "model" else 1]
