"""Batches of windows, each of one session."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Generator
from torch.utils.data import DataLoader, Sampler

__all__: list[str] = []


class SessionBatches(Sampler[list[int]]):
    """Batches of samples of one session each, in an order that a generator draws.

    Sessions have units of their own: a batch of several would consist mostly of padding.

    Args:
        sessions: The number of each sample's session.
        batch_size: Samples per batch, >= 1; the last one of a session may be smaller.
        generator: Where the order comes from; None keeps that of the samples.

    Raises:
        ValueError: A batch size below 1.

    Examples:
        >>> list(SessionBatches([0, 0, 0, 1, 1], 2))
        [[0, 1], [2], [3, 4]]
    """

    def __init__(
        self, sessions: Sequence[int], batch_size: int, *, generator: Generator | None = None
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.sessions = tuple(sessions)
        self.batch_size = batch_size
        self.generator = generator

    def __len__(self) -> int:
        counts = [self.sessions.count(k) for k in set(self.sessions)]
        return sum(-(-n // self.batch_size) for n in counts)

    def __iter__(self) -> Iterator[list[int]]:
        batches: list[list[int]] = []
        for session in sorted(set(self.sessions)):
            rows = [i for i, k in enumerate(self.sessions) if k == session]
            rows = [rows[i] for i in self._order(len(rows))]
            batches += [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        yield from (batches[i] for i in self._order(len(batches)))

    def _order(self, n: int) -> list[int]:
        if self.generator is None:
            return list(range(n))
        order: list[int] = torch.randperm(n, generator=self.generator).tolist()
        return order


def session_loader(
    samples: Sequence[Mapping[str, Any]],
    batch_size: int,
    *,
    generator: Generator | None = None,
    num_workers: int = 0,
) -> DataLoader[Any]:
    """A loader of samples from `windows`, in batches of one session each.

    Args:
        samples: The windows of all sessions.
        batch_size: Windows per batch.
        generator: Where the order comes from; None keeps that of the samples.
        num_workers: Processes that read ahead.

    Returns:
        The loader.

    Raises:
        ValueError: No window, or a batch size below 1.

    Examples:
        >>> import torch
        >>> samples = [{"lfp": torch.zeros(10, 2), "recording_index": 0}] * 4
        >>> [tuple(batch["lfp"].shape) for batch in session_loader(samples, 3)]
        [(3, 10, 2), (1, 10, 2)]
    """
    # The batching of the trainer, which loads more than a reader of files needs.
    from neuros_neurofm.training.batching import collate

    if not samples:
        raise ValueError("no window fits into the blocks; choose a shorter window or gap")
    sampler = SessionBatches(
        [int(s["recording_index"]) for s in samples], batch_size, generator=generator
    )
    rows: Any = list(samples)
    return DataLoader(rows, batch_sampler=sampler, collate_fn=collate, num_workers=num_workers)
