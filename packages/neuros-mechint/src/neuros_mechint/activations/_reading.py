"""Batches of stored rows, in the order of the data or shuffled within bounded memory."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from neuros_mechint.activations._shard import Shard

__all__ = ["in_order", "shuffled"]

# Bytes of neighbouring rows that a shuffled pool takes together: a disk reads them in one go.
_RUN_BYTES = 2**16

_Shards = Mapping[str, Sequence[Shard]]


class _Run(NamedTuple):
    """Neighbouring rows of one shard."""

    shard: int
    start: int
    stop: int


def in_order(shards: _Shards, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """Yield batches in the order of the data."""
    taken: list[_Run] = []
    missing = batch_size
    for number, n_rows in enumerate(_counts(shards)):
        start = 0
        while start < n_rows:
            stop = min(start + missing, n_rows)
            taken.append(_Run(number, start, stop))
            missing -= stop - start
            start = stop
            if missing == 0:
                yield _gather(shards, taken)
                taken, missing = [], batch_size
    if taken:
        yield _gather(shards, taken)


def shuffled(
    shards: _Shards, batch_size: int, pool_size: int, generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    """Yield batches of a pool of runs from the whole store, refilled when it is empty."""
    rows_per_run = max(_RUN_BYTES // max(_row_bytes(shards), 1), 1)
    runs = [
        _Run(number, start, min(start + rows_per_run, n_rows))
        for number, n_rows in enumerate(_counts(shards))
        for start in range(0, n_rows, rows_per_run)
    ]
    order = [runs[k] for k in torch.randperm(len(runs), generator=generator).tolist()]
    rest: dict[str, Tensor] = {}
    for pool in _pools(order, pool_size):
        gathered = _gather(shards, sorted(pool), rest)
        n_rows = next(iter(gathered.values())).shape[0]
        mixed = torch.randperm(n_rows, generator=generator)
        n_whole = n_rows - n_rows % batch_size
        for start in range(0, n_whole, batch_size):
            yield _take(gathered, mixed[start : start + batch_size])
        # What does not fill a batch goes into the next pool: only the last batch of all is short.
        rest = _take(gathered, mixed[n_whole:])
    if next(iter(rest.values())).shape[0]:
        yield rest


def _counts(shards: _Shards) -> list[int]:
    return [shard.n_rows for shard in next(iter(shards.values()))]


def _row_bytes(shards: _Shards) -> int:
    return max(parts[0].width * parts[0].dtype.itemsize for parts in shards.values())


def _pools(runs: list[_Run], size: int) -> Iterator[list[_Run]]:
    """Cut the runs into pools of at most `size` rows, or of one run."""
    pool: list[_Run] = []
    n_rows = 0
    for run in runs:
        if pool and n_rows + run.stop - run.start > size:
            yield pool
            pool, n_rows = [], 0
        pool.append(run)
        n_rows += run.stop - run.start
    yield pool


def _gather(
    shards: _Shards, runs: list[_Run], head: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Copy runs, sorted by shard, into one tensor per site, after the rows of `head`."""
    n_rows = sum(run.stop - run.start for run in runs)
    gathered = {}
    for name, parts in shards.items():
        first = (head or {}).get(name)
        at = 0 if first is None else first.shape[0]
        out = torch.empty(at + n_rows, parts[0].width, dtype=parts[0].dtype)
        if first is not None:
            out[:at] = first
        # One map at a time: the pages of a map that is let go no longer count as our memory.
        for number, group in itertools.groupby(runs, key=lambda run: run.shard):
            mapped = parts[number].rows()
            for run in group:
                stop = at + run.stop - run.start
                out[at:stop] = mapped[run.start : run.stop]
                at = stop
        gathered[name] = out
    return gathered


def _take(rows: Mapping[str, Tensor], index: Int64[Tensor, " batch"]) -> dict[str, Tensor]:
    return {name: values[index] for name, values in rows.items()}
