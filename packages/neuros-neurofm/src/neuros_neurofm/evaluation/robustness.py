"""How decoding bears imprecise spike times, lost units and a limit on tokens."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation._batches import Batch, block_batches
from neuros_neurofm.evaluation._test_scores import (
    Score,
    chance_score,
    check_targets,
    metric_of,
    score_predicted,
)
from neuros_neurofm.evaluation._training import evaluating
from neuros_neurofm.evaluation.session import Session
from neuros_neurofm.models._options import Tokenizer
from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX

__all__ = ["RobustnessCurve", "TokenizerRobustness", "tokenizer_robustness"]


class RobustnessCurve(NamedTuple):
    """Scores along one kind of damage.

    Attributes:
        levels: Strength of the damage, ascending, (level,).
        scores: R2, or balanced accuracy of labels, on the test blocks, (level,).
        low: Lower ends of the 95 % intervals, (level,).
        high: Upper ends, (level,).
        tokens_per_second: Spike tokens that the model read on average, (level,).
        metric: `R2` or `balanced accuracy`.
        chance: Score of a constant answer: 0 for R2, one over the number of classes for labels.
    """

    levels: Array
    scores: Array
    low: Array
    high: Array
    tokens_per_second: Array
    metric: str
    chance: float


class TokenizerRobustness(NamedTuple):
    """One curve per kind of damage.

    Attributes:
        jitter: Levels are standard deviations of the spike times in ms.
        unit_dropout: Levels are shares of the units that are taken away.
    """

    jitter: RobustnessCurve
    unit_dropout: RobustnessCurve


class _Trial(NamedTuple):
    """Damage of one evaluation, and the tokens per second that it may read."""

    jitter_ms: float
    dropout: float
    token_budget: float | None


def tokenizer_robustness(
    model: MultiModalNeuroFMX,
    data: Session,
    jitter_ms: Sequence[float] = (0.0, 5.0, 10.0, 20.0, 40.0),
    unit_dropout: Sequence[float] = (0.0, 0.25, 0.5, 0.75),
    token_budget: float | None = None,
    *,
    generator: Generator,
    n_bootstrap: int = 1000,
) -> TokenizerRobustness:
    r"""Decode test blocks whose spikes are damaged, at a given number of tokens per second.

    - Jitter: each spike, at a uniform place in its bin, moves by a normal time of this deviation;
      one that would leave the block is reflected at its edge. Spikes are kept.
    - Unit dropout: `round(level * n)` of the n units are masked, at least one stays.
    - Budget: a model that cuts spikes into more tokens reads the recording more finely at more
      cost. At an equal budget two tokenizers can be compared. Of the tokens of each block, a
      random subset of `token_budget` times its duration is kept: patches of counts are masked (a
      patch is a token), single spikes are dropped where every spike is a token
      (`spike_mode="events"`). A model that makes fewer tokens keeps all of them; what was read
      stands in `tokens_per_second`.

    The damage is drawn once per level; the intervals are those of the test blocks, in pieces of a
    twentieth. Other modalities of the model stay as they are.

    Args:
        model: A trained model with spikes.
        data: Session with whole counts, and numbers (scored by R2) or integer labels (scored by
            `balanced_accuracy`) as targets.
        jitter_ms: Deviations in ms, >= 0.
        unit_dropout: Shares in [0, 1).
        token_budget: Spike tokens per second; None: all.
        generator: Draws the damage, the tokens that are kept and the intervals.
        n_bootstrap: Resamples of the intervals.

    Returns:
        The two curves.

    Raises:
        ValueError: A model or session without spikes, counts that are not whole, levels out of
            range or none, a budget that is not positive, no targets, no test block, or what
            `decode` refuses.

    Examples:
        >>> import numpy as np
        >>> from neuros_neurofm.evaluation.session import contiguous_blocks
        >>> model = MultiModalNeuroFMX(
        ...     16, 1, 8, 8, modalities=("spike",), behavior_dim=1, window=0.16,
        ...     sampling_rates={"spike": 50.0})
        >>> rng = np.random.default_rng(0)
        >>> session = Session({"spike": rng.poisson(1.0, size=(400, 3))}, rng.normal(size=400),
        ...                   50.0, contiguous_blocks(400, gap=10))
        >>> curves = tokenizer_robustness(
        ...     model, session, (0.0, 10.0), (0.0,), 25.0, generator=rng, n_bootstrap=20)
        >>> curves.jitter.levels.tolist(), curves.jitter.tokens_per_second.round(6).tolist()
        ([0.0, 10.0], [25.0, 25.0])

    References:
        Azabou, M. et al. (2023). A unified, scalable framework for neural population decoding.
        NeurIPS. https://doi.org/10.48550/arXiv.2310.16046
    """
    _check(model, data, token_budget)
    jitters = _levels("jitter_ms", jitter_ms, np.inf)
    dropouts = _levels("unit_dropout", unit_dropout, 1.0)
    metric, chance = metric_of(data), chance_score(data)

    def curve(levels: Array, trials: Sequence[_Trial]) -> RobustnessCurve:
        runs = [_evaluate(model, data, trial, generator, n_bootstrap) for trial in trials]
        estimates, low, high = np.array([score for score, _ in runs]).T
        tokens = np.array([tokens for _, tokens in runs])
        return RobustnessCurve(levels, estimates, low, high, tokens, metric, chance)

    return TokenizerRobustness(
        curve(jitters, [_Trial(level, 0.0, token_budget) for level in jitters]),
        curve(dropouts, [_Trial(0.0, level, token_budget) for level in dropouts]),
    )


def _check(model: MultiModalNeuroFMX, data: Session, token_budget: float | None) -> None:
    check_targets(data)
    if "spike" not in model.modalities or "spike" not in data.inputs:
        raise ValueError(
            f"model and session need spikes, got {list(model.modalities)} and {list(data.inputs)}"
        )
    if "decoder" not in model.heads:
        raise ValueError("the model has no decoder; build it with behavior_dim >= 1")
    counts = data.inputs["spike"]
    if (counts < 0).any() or (counts != np.round(counts)).any():
        raise ValueError("spike must hold whole counts >= 0; only single spikes can be moved")
    if token_budget is not None and not 0 < token_budget < np.inf:
        raise ValueError(f"token_budget must be tokens per second > 0, got {token_budget}")


def _levels(name: str, levels: Sequence[float], end: float) -> Array:
    # NaN is sorted to the end, where it is found.
    given = np.sort(np.array(levels, dtype=np.float64))
    if not given.size or not (given[0] >= 0 and given[-1] < end):
        raise ValueError(f"{name} must hold levels in [0, {end:g}), got {list(levels)}")
    return given


def _evaluate(
    model: MultiModalNeuroFMX,
    data: Session,
    trial: _Trial,
    generator: Generator,
    n_bootstrap: int,
) -> tuple[Score, float]:
    n_units = data.inputs["spike"].shape[1]
    lost = generator.permutation(n_units)[: min(round(trial.dropout * n_units), n_units - 1)]
    predicted, n_tokens, seconds = [], 0, 0.0
    for batch in block_batches(model, data, "test"):
        counts = batch["spike"][0].cpu().numpy().astype(np.int64)
        moved = _jittered(counts, trial.jitter_ms * 1e-3 * data.rate, generator)
        moved[:, lost] = 0
        duration = len(counts) / data.rate
        kept, seen, n = _within_budget(model, moved, _budget(trial, duration), generator)
        seen[:, lost] = False
        with evaluating(model):
            output = model.forward_batch(_replaced(batch, kept, seen))
        predicted.append(cast("torch.Tensor", output.decoder)[0].double().cpu().numpy())
        n_tokens, seconds = n_tokens + n, seconds + duration
    score = score_predicted(
        data, np.concatenate(predicted), n_bootstrap=n_bootstrap, generator=generator
    )
    return score, n_tokens / seconds


def _budget(trial: _Trial, duration: float) -> int | None:
    return None if trial.token_budget is None else max(round(trial.token_budget * duration), 1)


def _replaced(batch: Batch, counts: NDArray[np.int64], seen: NDArray[np.bool_]) -> Batch:
    x = batch["spike"]
    mask = torch.as_tensor(seen, device=x.device)[None]
    return {**batch, "spike": torch.as_tensor(counts)[None].to(x), "masks": {"spike": mask}}


def _jittered(
    counts: NDArray[np.int64], deviation: float, generator: Generator
) -> NDArray[np.int64]:
    """Counts after each spike has moved by a normal time, `deviation` in bins."""
    n_times = len(counts)
    bins, units = np.nonzero(counts)
    times = np.repeat(bins, counts[bins, units])
    units = np.repeat(units, counts[bins, units])
    at = times + generator.random(len(times)) + deviation * generator.normal(size=len(times))
    # Reflection at both ends, however far the spike went.
    at = np.abs((at + n_times) % (2 * n_times) - n_times)
    moved = np.zeros_like(counts)
    np.add.at(moved, (np.minimum(at.astype(np.int64), n_times - 1), units), 1)
    return moved


def _within_budget(
    model: MultiModalNeuroFMX,
    counts: NDArray[np.int64],
    budget: int | None,
    generator: Generator,
) -> tuple[NDArray[np.int64], NDArray[np.bool_], int]:
    """Counts, what is seen of them, and the number of tokens that they make."""
    seen = np.ones(counts.shape, dtype=np.bool_)
    if model.config["spike_mode"] == "events":
        n = int(counts.sum())
        if budget is None or budget >= n:
            return counts, seen, n
        kept = generator.multivariate_hypergeometric(counts.ravel(), budget)
        return kept.reshape(counts.shape), seen, budget
    size = cast("Tokenizer", model.tokenizers["spike"]).core.size
    n = -(-len(counts) // size)
    if budget is None or budget >= n:
        return counts, seen, n
    patch = np.arange(len(counts)) // size
    dropped = generator.permutation(n)[budget:]
    seen[np.isin(patch, dropped)] = False
    return counts, seen, budget
