"""A loader goes on between two epochs as if the process had not ended."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Generator
from torch.utils.data import DataLoader, RandomSampler

from neuros_neurofm.training._position import LoaderPosition

DATA = list(range(12))


class Resumable:
    """A sampler with a generator of its own that nobody sees, and a state."""

    def __init__(self, seed: int) -> None:
        self._draw = Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(len(DATA), generator=self._draw).tolist())

    def __len__(self) -> int:
        return len(DATA)

    def state_dict(self) -> dict[str, Any]:
        return {"draw": self._draw.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._draw.set_state(state["draw"])


def shuffled(seed: int) -> DataLoader:
    return DataLoader(DATA, 3, shuffle=True, generator=Generator().manual_seed(seed))


def sampled(seed: int) -> DataLoader:
    return DataLoader(DATA, 3, sampler=RandomSampler(DATA, generator=Generator().manual_seed(seed)))


def resumable(seed: int) -> DataLoader:
    return DataLoader(DATA, 3, sampler=Resumable(seed))


def epoch(position: LoaderPosition, loader: DataLoader, number: int) -> list[list[int]]:
    seen = [batch.tolist() for batch in position.batches(loader, number)]
    position.finish(loader)
    return seen


@pytest.mark.parametrize("build", [shuffled, sampled, resumable])
def test_the_epoch_after_a_checkpoint_is_that_of_the_unbroken_run(build) -> None:
    torch.manual_seed(0)
    unbroken, loader = LoaderPosition(), build(1)
    first = epoch(unbroken, loader, 0)
    state = unbroken.state_dict()
    second = epoch(unbroken, loader, 1)
    assert first != second

    torch.manual_seed(99)
    resumed, other = LoaderPosition(), build(2)
    resumed.load_state_dict(state)
    assert epoch(resumed, other, 1) == second


def test_a_checkpoint_of_before_is_still_read() -> None:
    state = LoaderPosition().state_dict()
    del state["rest"]
    position = LoaderPosition()
    position.load_state_dict(state)
    assert len(epoch(position, shuffled(0), 0)) == 4
