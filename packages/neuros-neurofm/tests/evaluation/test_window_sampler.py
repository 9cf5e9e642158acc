"""Which windows of a session's training blocks a step sees."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from neuros_neurofm.evaluation._batches import OWN_UNITS, WindowSampler
from neuros_neurofm.evaluation.session import Blocks, Session


def sampler(lab: Any, session: Session, batch_size: int) -> WindowSampler:
    # The input holds the index of its sample, so that a window says where it lies.
    inputs = {"lfp": np.arange(session.n_times, dtype=float)[:, None]}
    data = dataclasses.replace(session, inputs=inputs, units=None)
    return WindowSampler(
        lab.make_model(),
        [data],
        scale=OWN_UNITS,
        batch_size=batch_size,
        generator=torch.Generator().manual_seed(0),
    )


def starts(batch: Any) -> list[int]:
    rows = batch["lfp"][..., 0]
    assert torch.equal(rows, rows[:, :1] + torch.arange(rows.shape[1]))
    return rows[:, 0].int().tolist()


def test_the_windows_of_a_batch_lie_in_different_trials(lab: Any) -> None:
    trials = tuple(slice(32 * k, 32 * (k + 1)) for k in range(20))
    session = lab.record(blocks=Blocks(trials, (), (slice(1000, 1200),)))
    drawn = starts(sampler(lab, session, 400).draw(0))
    # A trial is as long as the model's window of 32 samples: there is one window in each.
    assert set(drawn) == {trial.start for trial in trials}


def test_every_window_is_drawn_alike(lab: Any) -> None:
    session = lab.record(blocks=Blocks((slice(0, 40), slice(100, 133)), (), (slice(1000, 1200),)))
    found = starts(sampler(lab, session, 11_000).draw(0))
    counts = [found.count(k) for k in (*range(9), 100, 101)]
    assert sum(counts) == 11_000
    # 1000 of each, five standard deviations of a binomial count.
    np.testing.assert_allclose(counts, 1000, atol=5 * np.sqrt(1000))


@pytest.mark.parametrize("turn", range(4))
def test_a_block_shorter_than_the_window_gives_shorter_windows(lab: Any, turn: int) -> None:
    blocks = Blocks((slice(0, 10), slice(50, 60), slice(200, 240)), (), (slice(1000, 1200),))
    draws = sampler(lab, lab.record(blocks=blocks), 64)
    lengths = set()
    for _ in range(20):
        batch = draws.draw(turn)
        length = batch["lfp"].shape[1]
        lengths.add(length)
        for start in starts(batch):
            assert any(b.start <= start and start + length <= b.stop for b in blocks.train)
    assert lengths == {10, 32}
