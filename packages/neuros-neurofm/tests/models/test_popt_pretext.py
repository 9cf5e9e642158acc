"""The pretraining questions put to a population transformer, and what an answer costs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from neuros_neurofm.models import (
    PopT,
    PretextHeads,
    PretextLogits,
    PretextTask,
    draw_pretext_task,
    popt_pretext_loss,
)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def labelled(batch: int, n_times: int, n_channels: int) -> Tensor:
    """States whose vector says which row, time and channel they are."""
    axes = [torch.arange(n, dtype=torch.float32) for n in (batch, n_times, n_channels)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def answers(task: PretextTask, logit: float) -> PretextLogits:
    """The right answers, with log odds of +-logit; the wrong ones for a negative logit."""
    return PretextLogits(
        logit * (2.0 * task.consecutive - 1), logit * (2.0 * task.replaced.float() - 1)
    )


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    n_times=st.integers(4, 9),
    n_channels=st.integers(2, 9),
    seed=st.integers(0, 1_000),
    fraction=st.sampled_from([0.0, 0.3, 1.0]),
    subsample=st.booleans(),
)
def test_every_task_is_what_it_says(
    n_times: int, n_channels: int, seed: int, fraction: float, subsample: bool
) -> None:
    batch, generator = 12, seeded(seed)
    valid = torch.rand(batch, n_channels, generator=generator) < 0.7
    valid[:, :2] = True
    states = labelled(batch, n_times, n_channels)
    # A NaN that reached a token would fail every comparison below.
    states[~valid[:, None].expand(states.shape[:3])] = math.nan
    task = draw_pretext_task(
        states,
        mask=valid,
        replaced_fraction=fraction,
        min_channels=2 if subsample else None,
        generator=generator,
    )
    row, time, channel = task.tokens.unbind(-1)
    rows, channels = torch.arange(batch)[:, None], torch.arange(n_channels)
    kept = task.mask & ~task.replaced
    assert not (task.mask & ~valid).any()
    assert not ((task.replaced | task.second) & ~task.mask).any()
    assert (task.tokens[~task.mask] == 0).all()
    assert torch.equal(row[task.mask], rows.expand_as(row)[task.mask].float())
    assert torch.equal(channel[kept], channels.expand_as(channel)[kept].float())
    assert (channel != channels)[task.replaced].all()
    n_used, n_second = task.mask.sum(1), task.second.sum(1)
    assert torch.equal(n_second, (n_used + 1) // 2)
    assert (n_used >= 2).all()
    assert subsample or torch.equal(task.mask, valid)
    for b in range(batch):
        shown = {part: time[b, kept[b] & (task.second[b] == part)].unique() for part in (0, 1)}
        assert all(len(times) <= 1 for times in shown.values())
        if len(shown[0]) and len(shown[1]):
            gap = shown[1] - shown[0]
            assert gap == 1 if task.consecutive[b] else abs(gap) >= 2
        swapped = time[b, task.replaced[b]]
        assert not torch.isin(swapped, torch.cat(list(shown.values()))).any()


def test_half_the_pairs_are_consecutive_and_the_stated_share_is_replaced() -> None:
    batch, n_channels, fraction = 20_000, 10, 0.1
    task = draw_pretext_task(
        labelled(batch, 6, n_channels), replaced_fraction=fraction, generator=seeded()
    )
    # Binomial: five standard errors each (a false alarm in 2e6).
    assert abs(task.consecutive.float().mean() - 0.5) < 5 * math.sqrt(0.25 / batch)
    error = math.sqrt(fraction * (1 - fraction) / (batch * n_channels))
    assert abs(task.replaced.float().mean() - fraction) < 5 * error


def test_every_allowed_time_and_donor_is_as_likely_as_any_other() -> None:
    batch, n_times = 40_000, 4
    task = draw_pretext_task(labelled(batch, n_times, 4), replaced_fraction=0.5, generator=seeded())
    _, time, channel = task.tokens.unbind(-1)
    from_zero = channel[:, 0][task.replaced[:, 0]]
    shares = torch.bincount(from_zero.long(), minlength=4) / len(from_zero)
    # 2e4 draws: a standard error of 0.0034.
    torch.testing.assert_close(shares, torch.tensor([0.0, 1 / 3, 1 / 3, 1 / 3]), atol=0.02, rtol=0)
    first = task.mask & ~task.replaced & ~task.second
    shares = torch.bincount(time[first].long(), minlength=n_times) / first.sum()
    torch.testing.assert_close(shares, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0]), atol=0.02, rtol=0)


def test_ensembles_come_in_every_size_when_asked_to() -> None:
    task = draw_pretext_task(labelled(2_000, 4, 6), min_channels=3, generator=seeded())
    sizes = torch.bincount(task.mask.sum(1), minlength=7)
    assert sizes[:3].sum() == 0
    # 2000 draws of four sizes: 500 expected each, with a standard deviation of 19.
    assert ((sizes[3:] - 500).abs() < 120).all()


def test_a_seed_decides_the_task_bit_for_bit() -> None:
    states = torch.randn(5, 6, 7, 3, generator=seeded())
    one, same, other = (draw_pretext_task(states, generator=seeded(s)) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.tokens, other.tokens)


def test_right_answers_cost_nothing_and_wrong_ones_their_log_odds() -> None:
    task = draw_pretext_task(labelled(50, 5, 8), generator=seeded())
    right, wrong = (popt_pretext_loss(answers(task, k), task) for k in (200.0, -200.0))
    assert all(part == 0 for part in right)
    assert wrong.consecutive == wrong.replaced == 200
    assert wrong.total == 400


def test_a_guess_costs_the_logarithm_of_two() -> None:
    task = draw_pretext_task(labelled(50, 5, 8), generator=seeded())
    loss = popt_pretext_loss(answers(task, 0.0), task)
    assert loss.consecutive.item() == pytest.approx(math.log(2), abs=1e-6)
    assert loss.replaced.item() == pytest.approx(math.log(2), abs=1e-6)
    assert loss.total.item() == pytest.approx(2 * math.log(2), abs=1e-6)


def test_no_constant_answer_about_channels_beats_the_guess() -> None:
    """Replaced and untouched channels weigh the same, whatever their numbers."""
    task = draw_pretext_task(labelled(50, 5, 8), generator=seeded())
    for logit in (-2.0, -0.1, 0.1, 2.0):
        constant = torch.full_like(task.replaced, logit, dtype=torch.float32)
        loss = popt_pretext_loss(PretextLogits(torch.zeros(50), constant), task)
        expected = (math.log1p(math.exp(logit)) + math.log1p(math.exp(-logit))) / 2
        assert loss.replaced.item() == pytest.approx(expected, abs=1e-5)
        assert loss.replaced > math.log(2)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_batch_of_one_kind_is_scored_on_that_kind(fraction: float) -> None:
    task = draw_pretext_task(labelled(9, 5, 4), replaced_fraction=fraction, generator=seeded())
    loss = popt_pretext_loss(answers(task, 0.0), task)
    assert loss.replaced.item() == pytest.approx(math.log(2), abs=1e-6)


def test_channels_outside_the_ensembles_are_not_scored() -> None:
    mask = torch.tensor([[True, True, True, False]] * 20)
    task = draw_pretext_task(labelled(20, 5, 4), mask=mask, generator=seeded())
    logits = answers(task, 3.0)
    spoiled = logits.replaced.clone()
    spoiled[:, 3] = math.nan
    loss = popt_pretext_loss(logits._replace(replaced=spoiled), task)
    assert loss.replaced == popt_pretext_loss(logits, task).replaced


def test_huge_and_half_precision_logits_are_finite() -> None:
    task = draw_pretext_task(labelled(50, 5, 8), generator=seeded())
    wrong = answers(task, -1e4)
    assert popt_pretext_loss(wrong, task).total == 2e4
    with torch.autocast("cpu", torch.bfloat16):
        half = PretextLogits(*(x.bfloat16() for x in answers(task, 1.0)))
        loss = popt_pretext_loss(half, task)
    assert loss.total.dtype == torch.float32
    assert loss.total.item() == pytest.approx(2 * math.log1p(math.exp(-1)), abs=1e-5)


def test_positions_reach_the_transformer() -> None:
    torch.manual_seed(0)
    popt, heads = PopT(16, 1).eval(), PretextHeads(16)
    task = draw_pretext_task(torch.randn(3, 5, 4, 16, generator=seeded()), generator=seeded())
    coords = 0.1 * torch.rand(3, 4, 3, generator=seeded())
    assert not torch.allclose(heads(popt, task, coords).consecutive, heads(popt, task).consecutive)


def planted(batch: int, generator: Generator) -> Tensor:
    """A phase turns by an eighth per step; each channel shows it beside its own name."""
    n_times, n_channels = 8, 8
    start = 2 * math.pi * torch.rand(batch, 1, 1, generator=generator)
    phase = start + torch.arange(n_times)[:, None] * (2 * math.pi / 8)
    phase = phase.expand(batch, n_times, n_channels)
    names = torch.eye(n_channels).expand(batch, n_times, n_channels, n_channels)
    waves = torch.stack([phase.cos(), phase.sin()], dim=-1).repeat_interleave(4, dim=-1)
    states = torch.cat([names, waves], dim=-1)
    return states + 0.1 * torch.randn(states.shape, generator=generator)


# Training takes about 2 s: the claim is about a trained transformer.
@pytest.mark.slow
def test_a_population_transformer_learns_both_questions() -> None:
    torch.manual_seed(0)
    generator = seeded()
    popt, heads = PopT(16, 2, n_heads=2), PretextHeads(16)
    optimizer = torch.optim.Adam([*popt.parameters(), *heads.parameters()], lr=5e-3)
    for _ in range(160):
        task = draw_pretext_task(
            planted(128, generator), replaced_fraction=0.2, generator=generator
        )
        optimizer.zero_grad()
        popt_pretext_loss(heads(popt, task), task).total.backward()
        optimizer.step()
    task = draw_pretext_task(planted(500, generator), replaced_fraction=0.2, generator=generator)
    with torch.no_grad():
        loss = popt_pretext_loss(heads(popt, task), task)
    assert loss.replaced < 0.5 * math.log(2)
    assert loss.consecutive < 0.5 * math.log(2)


def test_wrong_shapes_and_settings_are_refused() -> None:
    states = torch.zeros(2, 5, 4, 3)
    for wrong in (states[0], states[:, :3], states[:, :, :1], states[:0]):
        with pytest.raises(ValueError, match=r"at least 4 times and 2 channels, got shape"):
            draw_pretext_task(wrong, generator=seeded())
    with pytest.raises(ValueError, match=r"mask must be \(batch, channel\) = \(2, 4\) booleans"):
        draw_pretext_task(states, mask=torch.ones(2, 4), generator=seeded())
    lonely = torch.tensor([[True, True, True, True], [False, True, False, False]])
    with pytest.raises(ValueError, match=r"at least 2 valid channels.* got a row with 1"):
        draw_pretext_task(states, mask=lonely, generator=seeded())
    for fraction in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"replaced_fraction must lie in \[0, 1\]"):
            draw_pretext_task(states, replaced_fraction=fraction, generator=seeded())
    with pytest.raises(ValueError, match="min_channels must be >= 2, one per ensemble, got 1"):
        draw_pretext_task(states, min_channels=1, generator=seeded())
    task = draw_pretext_task(states, generator=seeded())
    with pytest.raises(ValueError, match=r"logits.consecutive must have the shape \(2,\)"):
        popt_pretext_loss(PretextLogits(torch.zeros(2, 1), torch.zeros(2, 4)), task)
    with pytest.raises(ValueError, match=r"logits.replaced must have the shape \(2, 4\)"):
        popt_pretext_loss(PretextLogits(torch.zeros(2), torch.zeros(2, 3)), task)
