"""Tasks of memory: the answer is in the input, at a known distance."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from neuros_neurofm.datasets import memory_task

sizes = st.tuples(st.integers(0, 20), st.integers(1, 5), st.integers(1, 4))


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@settings(max_examples=15, derandomize=True, deadline=None)
@given(sizes)
def test_the_copy_is_the_input_that_was_shown(size: tuple[int, int, int]) -> None:
    length, n_items, n_channels = size
    inputs, targets, mask = memory_task(
        "copy", length, n_trials=6, n_items=n_items, n_channels=n_channels, generator=seeded()
    )
    assert inputs.shape == (6, length + 2 * n_items, n_channels + 1)
    assert torch.equal(targets[:, -n_items:], inputs[:, :n_items, :-1])
    assert (targets[mask].sum(-1) == 1).all()
    assert (targets[~mask] == 0).all()
    assert (inputs[:, n_items:, :-1] == 0).all()
    assert torch.equal(inputs[..., -1], mask.float())
    assert mask.sum() == 6 * n_items


@settings(max_examples=15, derandomize=True, deadline=None)
@given(sizes)
def test_the_delayed_sum_is_exact(size: tuple[int, int, int]) -> None:
    length, n_items, n_channels = size
    inputs, targets, mask = memory_task(
        "delayed_sum",
        length,
        n_trials=3,
        n_items=n_items,
        n_channels=n_channels,
        generator=seeded(),
    )
    assert inputs.shape == targets.shape == (3, length + 2 * n_items, n_channels)
    for t in range(inputs.shape[1]):
        first = t - length - n_items + 1
        assert mask[:, t].all() if first >= 0 else not mask[:, t].any()
        truth = inputs[:, first : first + n_items].sum(1) if first >= 0 else torch.zeros(())
        torch.testing.assert_close(
            targets[:, t], truth.expand_as(targets[:, t]), atol=1e-6, rtol=1e-6
        )


def test_guessing_scores_what_is_promised() -> None:
    symbols = memory_task("copy", 3, n_trials=5_000, generator=seeded()).targets[:, -4:]
    shares = symbols.mean(dim=(0, 1))
    # 2e4 symbols: the share 1/8 has a standard error of 0.0023.
    torch.testing.assert_close(shares, torch.full((8,), 1 / 8), atol=0.013, rtol=0)
    task = memory_task("delayed_sum", 3, n_trials=5_000, generator=seeded())
    # At least 4e4 independent squares of deviation 4 sqrt(2): a standard error of 0.03.
    assert task.targets[task.mask].square().mean().item() == pytest.approx(4.0, abs=0.17)


@pytest.mark.parametrize("task", ["copy", "delayed_sum"])
def test_a_seed_decides_the_trials_bit_for_bit(task: str) -> None:
    one, same, other = (memory_task(task, 5, generator=seeded(s)) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.inputs, other.inputs)
    assert one.inputs.dtype == one.targets.dtype == torch.float32


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="task must be copy or delayed_sum, got 'add'"):
        memory_task("add", 5, generator=seeded())
    with pytest.raises(ValueError, match="length must be >= 0 steps, got -1"):
        memory_task("copy", -1, generator=seeded())
    for name in ("n_trials", "n_items", "n_channels"):
        with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
            memory_task("copy", 5, generator=seeded(), **{name: 0})
    assert math.isfinite(memory_task("copy", 0, generator=seeded()).inputs.sum())
