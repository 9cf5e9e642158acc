from typing import Any

import pytest
import torch
from torch import Generator
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from neuros_neurofm.training import DomainWeightedSampler
from neuros_neurofm.training._sharding import Rounds, is_own, share_loader


def read(loader: Any, rank: int, world_size: int, seed: int = 3) -> list[tuple[list[int], bool]]:
    """Batches of one process, and whether it counts them."""
    part = share_loader(loader, rank, world_size, seed)
    assert len(list(part)) == len(part)
    # A second pass of a shuffling loader would be another epoch.
    part = share_loader(loader, rank, world_size, seed)
    values = [batch["x"] if isinstance(batch, dict) else batch for batch in part]
    return [(torch.as_tensor(x).tolist(), is_own(part, k)) for k, x in enumerate(values)]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_processes_together_read_every_batch_once(world_size: int) -> None:
    loader = DataLoader(range(11), 2)
    parts = [read(loader, rank, world_size) for rank in range(world_size)]
    counted = sorted(x for part in parts for batch, own in part if own for x in batch)
    assert counted == list(range(11))
    assert len({len(part) for part in parts}) == 1


def test_an_incomplete_round_is_filled_up_with_its_first_batch() -> None:
    batches: Any = [{"x": torch.tensor([k])} for k in range(3)]
    assert read(batches, 0, 2) == [([0], True), ([2], True)]
    assert read(batches, 1, 2) == [([1], True), ([2], False)]


def test_processes_shuffle_alike_without_a_generator_of_the_loader() -> None:
    loaders = [DataLoader(range(20), 2, shuffle=True) for _ in range(2)]
    parts = [read(loader, rank, 2) for rank, loader in enumerate(loaders)]
    seen = sorted(x for part in parts for batch, _ in part for x in batch)
    assert seen == list(range(20))
    assert [batch for batch, _ in parts[0]] != [[4 * k, 4 * k + 1] for k in range(5)]


def test_a_sampler_that_deals_by_itself_is_left_alone() -> None:
    sampler = DomainWeightedSampler(
        [0, 1] * 4, [0.5, 0.5], num_samples=8, generator=Generator(), rank=1, world_size=2
    )
    loader = DataLoader(range(8), 2, sampler=sampler)
    assert share_loader(loader, 1, 2, 0) is loader
    with pytest.raises(ValueError, match="deals to 2 processes, the run has 4"):
        share_loader(loader, 1, 4, 0)


def test_one_process_keeps_the_loader() -> None:
    loader: Any = iter([{"x": 1}])
    assert share_loader(loader, 0, 1, 0) is loader
    assert is_own(loader, 7)


def test_a_stream_without_a_length_cannot_be_shared() -> None:
    with pytest.raises(TypeError, match="with 2 processes a loader needs a length, list_iterator"):
        share_loader(iter([{"x": 1}]), 0, 2, 0)


class Resumable(BatchSampler):
    def __init__(self) -> None:
        super().__init__(SequentialSampler(range(8)), 2, drop_last=False)
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def test_a_shared_batch_sampler_keeps_its_state() -> None:
    sampler = Resumable()
    part: Any = share_loader(DataLoader(range(8), batch_sampler=sampler), 0, 2, 0)
    part.batch_sampler.load_state_dict({"position": 3})
    assert sampler.position == 3
    assert part.batch_sampler.state_dict() == {"position": 3}
    assert isinstance(part.batch_sampler, Rounds)
