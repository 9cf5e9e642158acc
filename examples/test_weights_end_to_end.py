"""From simulated sessions over their statistics to weights, and from weights to a better decoder.

The same array is recorded in four sessions. Every channel sees another unit in each of them, and
detects another share of its spikes, so a decoder of one session is wrong in the others. The target
is a day whose trials come from two of the sessions.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader

from neuros_core import DomainStatistics, SourceWeights
from neuros_neurofm.datasets import synthetic_population
from neuros_neurofm.evaluation import block_bootstrap
from neuros_neurofm.losses import BehaviorLoss
from neuros_neurofm.training import (
    DomainWeightedSampler,
    MultiModalTrainer,
    PretrainPhase,
    ThreePhaseCurriculum,
    WeightedPhase,
)
from neuros_sourceweigher import SourceWeigher

N_UNITS = 24
N_TRIALS = 200  # of every session
EPOCHS = 6
NAMES = ("monday", "tuesday", "wednesday", "thursday")
TRUTH = (0.75, 0.0, 0.25, 0.0)


class Day:
    """Trials with their spikes and the state that is to be decoded."""

    def __init__(self, counts: Tensor, latents: Tensor) -> None:
        self.counts, self.latents = counts, latents

    def take(self, rows: slice | Tensor) -> "Day":
        """Some of the trials."""
        return Day(self.counts[rows], self.latents[rows])

    def detected(self, share: Tensor, generator: Generator) -> "Day":
        """The spikes that electrodes of this sensitivity, (unit,), see."""
        return Day(
            torch.binomial(self.counts, share.expand_as(self.counts), generator), self.latents
        )

    def statistics(self, name: str) -> DomainStatistics:
        """Moments of the trials' spike counts: trials are independent, bins are not."""
        return DomainStatistics.from_samples(self.counts.sum(1).numpy(), name=name, space="counts")

    def rows(self) -> list[dict[str, Tensor]]:
        """One row per trial."""
        pairs = zip(self.counts, self.latents, strict=True)
        return [{"spike": spike, "behavior": state} for spike, state in pairs]


class CausalFilter(nn.Module):
    """The state as a linear filter of the last ten bins."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Conv1d(N_UNITS, 3, 10)

    def forward_batch(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Decode the spikes of a batch."""
        past = nn.functional.pad(batch["spike"].mT, (9, 0))
        return {"decoder": self.filter(past).mT}


def joined(*days: Day) -> Day:
    """Several days as one."""
    return Day(torch.cat([d.counts for d in days]), torch.cat([d.latents for d in days]))


def decode(days: list[Day], curriculum: ThreePhaseCurriculum, test: Day) -> np.ndarray:
    """Train on the sources as the curriculum says; squared error of every trial of the test."""
    torch.manual_seed(0)
    sampler = DomainWeightedSampler(
        np.repeat(curriculum.names, [len(day.counts) for day in days]),
        curriculum.weights_at(0),
        num_samples=160,
        generator=Generator().manual_seed(0),
    )
    loader = DataLoader([row for day in days for row in day.rows()], batch_size=8, sampler=sampler)

    model = CausalFilter()
    trainer = MultiModalTrainer(
        model,
        loader,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.02),
        loss=BehaviorLoss(),
        device="cpu",
        progress=False,
    )
    for epoch in range(EPOCHS):
        sampler.set_weights(curriculum.weights_at(epoch))
        trainer.train_epoch()
    with torch.no_grad():
        decoded = model.forward_batch({"spike": test.counts})["decoder"]
    return (decoded - test.latents).square().mean(dim=(1, 2)).numpy()


def towards(weights: SourceWeights, **settings: Any) -> ThreePhaseCurriculum:
    """Two epochs of equal shares, then these weights; a step is an epoch."""
    return ThreePhaseCurriculum(
        [PretrainPhase(duration=2), WeightedPhase(weights=weights, ramp_steps=2, **settings)],
        names=weights.names,
    )


def advantage(mine: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """How far the mean error of `other` is above mine, as a 95 % interval over trials."""
    interval = block_bootstrap(
        np.mean, [other - mine], block_length=1, generator=np.random.default_rng(0)
    )
    return interval.low, interval.high


def sensitivities(generator: Generator) -> list[Tensor]:
    """Share of its spikes that every channel detects, (unit,), one for each source."""
    return [0.3 + 0.7 * torch.rand(N_UNITS, generator=generator) for _ in NAMES]


@pytest.mark.slow  # trains two decoders
def test_weighted_training_beats_equal_shares_on_the_target() -> None:
    generator = Generator().manual_seed(0)
    sessions = synthetic_population(
        len(NAMES), N_UNITS, generator=generator, n_trials=N_TRIALS + 100, mean_rate_hz=20.0
    )
    seen = [
        Day(session.counts, session.latents).detected(share, generator)
        for session, share in zip(sessions, sensitivities(generator), strict=True)
    ]
    sources = [day.take(slice(N_TRIALS)) for day in seen]
    # 75 and 25 trials that no source has; the first half gives the statistics, without labels.
    target = joined(seen[0].take(slice(-75, None)), seen[2].take(slice(-25, None)))
    order = torch.randperm(100, generator=generator)
    known, test = target.take(order[:50]), target.take(order[50:])

    statistics = [day.statistics(name) for day, name in zip(sources, NAMES, strict=True)]
    weights = SourceWeigher(n_bootstrap=200).fit(statistics, known.statistics("target"))
    print("weights", weights.as_dict(), weights.diagnosis)
    assert weights.gap <= 1e-9
    assert weights.diagnosis.in_hull
    assert weights.diagnosis.identifiable
    assert np.abs(weights.weights - TRUTH).sum() < 0.3

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # weights that are sure of themselves are not touched
        curriculum = towards(weights)
    weighted = decode(sources, curriculum, test)
    uniform = decode(sources, towards(SourceWeights.uniform(NAMES)), test)
    low, high = advantage(weighted, uniform)
    print(f"error: weighted {weighted.mean():.3f}, uniform {uniform.mean():.3f}", low, high)
    assert low > 0


@pytest.mark.slow  # trains three decoders
def test_the_guard_limits_negative_transfer() -> None:
    # Now the units stay. On Tuesday the clocks came apart, so its states are those of other trials;
    # and the target's electrodes have drifted towards the sensitivity that they have on Tuesday.
    # By its counts, which know nothing of the clocks, the target looks like Tuesday.
    generator = Generator().manual_seed(0)
    (session,) = synthetic_population(
        1, N_UNITS, generator=generator, n_trials=(len(NAMES) + 1) * 100, mean_rate_hz=20.0
    )
    every, shares = Day(session.counts, session.latents), sensitivities(generator)
    sources = [
        every.take(slice(100 * k, 100 * (k + 1))).detected(share, generator)
        for k, share in enumerate(shares)
    ]
    sources[1].latents = sources[1].latents[torch.randperm(100, generator=generator)]
    drifted = 0.7 * shares[1] + 0.3 * torch.rand(N_UNITS, generator=generator)
    target = every.take(slice(-100, None)).detected(drifted, generator)
    known, test = target.take(slice(50)), target.take(slice(50, None))

    statistics = [day.statistics(name) for day, name in zip(sources, NAMES, strict=True)]
    weights = SourceWeigher().fit(statistics, known.statistics("target"))
    print("weights", weights.as_dict(), weights.diagnosis)
    assert weights["tuesday"] > 0.5
    assert not weights.diagnosis.in_hull

    with pytest.warns(UserWarning, match=r"trust 0\.50: in_hull is False") as said:
        curriculum = towards(weights)
    assert len(said) == 1
    unguarded = decode(sources, towards(weights, trust=1), test)
    guarded = decode(sources, curriculum, test)
    uniform = decode(sources, towards(SourceWeights.uniform(NAMES)), test)
    print("error", unguarded.mean(), guarded.mean(), uniform.mean())
    # Without the guard the weights transfer negatively: worse than no weights at all.
    assert advantage(uniform, unguarded)[0] > 0
    assert advantage(guarded, unguarded)[0] > 0
