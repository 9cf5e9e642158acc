"""One loader for several processes: each reads its own batches, and none waits for another."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any

import torch
from torch import Generator
from torch.utils.data import DataLoader

__all__: list[str] = []


class Rounds:
    """Every `world_size`-th item of an iterable, beginning with the `rank`-th.

    Processes that exchange gradients must take equally many batches. Where the last round is
    incomplete, those without an item of their own read its first one again, which `is_own` tells.

    Args:
        items: Batches, or the batch sampler of a loader; iterated in full by every process, so it
            must yield the same order in each.
        rank: This process.
        world_size: Number of processes.

    Raises:
        TypeError: The iterable has no length.
    """

    def __init__(self, items: Iterable[Any], rank: int, world_size: int) -> None:
        if not isinstance(items, Sized):
            raise TypeError(
                f"with {world_size} processes a loader needs a length, {type(items).__name__} has "
                "none; give it __len__"
            )
        self.items = items
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return (len(self.items) + self.world_size - 1) // self.world_size

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self.items)
        while chunk := list(islice(iterator, self.world_size)):
            yield chunk[self.rank] if self.rank < len(chunk) else chunk[0]

    def is_own(self, position: int) -> bool:
        """Whether the item at a position of this process is read by no other one."""
        return position * self.world_size + self.rank < len(self.items)


class _BatchRounds(Rounds):
    """Rounds of a batch sampler, which keeps its position, its epoch and its generator."""

    def __init__(self, items: Any, rank: int, world_size: int) -> None:
        super().__init__(items, rank, world_size)
        self.sampler = getattr(items, "sampler", None)
        self.generator = getattr(items, "generator", None)
        for name in ("set_epoch", "state_dict", "load_state_dict"):
            if hasattr(items, name):
                setattr(self, name, getattr(items, name))


def share_loader(
    loader: Iterable[Mapping[str, Any]], rank: int, world_size: int, seed: int
) -> Iterable[Mapping[str, Any]]:
    """The part of a loader that one process reads.

    Args:
        loader: Any iterable of batches with a length; of a `DataLoader` over a map-style data set
            only this process's samples are loaded. One whose sampler knows its `world_size`
            (or `num_replicas`) is left as it is.
        rank: This process.
        world_size: Number of processes.
        seed: Seeds a shuffling sampler that has no generator of its own; equal in every process.

    Returns:
        The loader itself for one process.

    Raises:
        TypeError: The loader has no length.
        ValueError: Its sampler deals to another number of processes.
    """
    if world_size == 1 or _is_shared(loader, world_size):
        return loader
    batch_sampler = getattr(loader, "batch_sampler", None)
    if not isinstance(loader, DataLoader) or not isinstance(batch_sampler, Sized):
        return Rounds(loader, rank, world_size)
    _seed_sampler(batch_sampler, seed)
    shared: DataLoader[Any] = DataLoader(
        loader.dataset,
        batch_sampler=_BatchRounds(batch_sampler, rank, world_size),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )
    return shared


def is_own(loader: Iterable[Any], position: int) -> bool:
    """Whether the batch at a position belongs to this process alone."""
    for rounds in (loader, getattr(loader, "batch_sampler", None)):
        if isinstance(rounds, Rounds):
            return rounds.is_own(position)
    return True


def _is_shared(loader: Iterable[Any], world_size: int) -> bool:
    batch_sampler = getattr(loader, "batch_sampler", None)
    owners = (batch_sampler, getattr(batch_sampler, "sampler", None))
    sizes = [getattr(o, "world_size", getattr(o, "num_replicas", 1)) for o in owners]
    wrong = [size for size in sizes if size not in (1, world_size)]
    if wrong:
        raise ValueError(
            f"the loader's sampler deals to {wrong[0]} processes, the run has {world_size}"
        )
    return world_size in sizes


def _seed_sampler(batch_sampler: Any, seed: int) -> None:
    """Give a shuffling sampler a generator, so that every process shuffles alike."""
    sampler = getattr(batch_sampler, "sampler", None)
    if isinstance(sampler, torch.utils.data.RandomSampler) and sampler.generator is None:
        sampler.generator = Generator().manual_seed(seed)
