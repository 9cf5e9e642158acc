"""Where in an epoch a loader stands, so that another process can go on from there."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any

import torch

from neuros_neurofm.training._random_state import random_state, set_random_state


class LoaderPosition:
    """Counts the batches of the running epoch and knows how the epoch began.

    A sampler with `state_dict` and `load_state_dict` is set to the position directly. Any other
    loader is replayed: the epoch begins again from the same random state and the batches that were
    already used are read and dropped. The position is counted here and not read from the sampler,
    because worker processes run ahead of the training.
    """

    def __init__(self) -> None:
        self.n_used = 0
        self._start: dict[str, Any] | None = None
        self._rest: dict[str, Any] | None = None
        self._now: dict[str, Any] | None = None

    def batches(self, loader: Iterable[Any], epoch: int) -> Iterator[Mapping[str, Any]]:
        """Begin or continue the epoch."""
        if self._now is not None and self._start is None and self._rest is not None:
            _put_back(loader, self._rest)
        for sampler in _samplers(loader):
            if callable(getattr(sampler, "set_epoch", None)):
                sampler.set_epoch(epoch)
        if self._now is None:
            self._start = _epoch_start(loader)
            return iter(loader)
        now, self._now = self._now, None
        if self._start is None:
            set_random_state(now)
            self._start = _epoch_start(loader)
            return iter(loader)
        iterator = self._continue(loader, self._start)
        set_random_state(now)
        return iterator

    def _continue(self, loader: Iterable[Any], start: dict[str, Any]) -> Iterator[Any]:
        set_random_state(start["random"])
        _set_generators(loader, start)
        sampler = _stateful_sampler(loader)
        if sampler is None or start["sampler"] is None:
            iterator = iter(loader)
            _drop(iterator, self.n_used)
            return iterator
        sampler.load_state_dict(start["sampler"])
        indices = iter(getattr(loader, "batch_sampler", None) or sampler)
        _drop(indices, self.n_used)
        state = sampler.state_dict()
        length = length_of(loader)
        if length is not None and self.n_used >= length:
            # Saved after the last batch: let the sampler see the end, so that it begins anew.
            for _ in indices:
                pass
            return iter(())
        del indices
        sampler.load_state_dict(state)
        return iter(loader)

    def share(self, loader: Iterable[Any]) -> float:
        """Share of the epoch that is done, 0 where the loader does not know its length."""
        length = length_of(loader)
        return min(self.n_used / length, 1.0) if length else 0.0

    def finish(self, loader: Iterable[Any]) -> None:
        """End the epoch; the next one begins with the generators as they are now."""
        self.n_used = 0
        self._start = None
        self._rest = _epoch_start(loader)

    def state_dict(self) -> dict[str, Any]:
        """Return the position and the random state, as a checkpoint can hold them."""
        states = {"start": self._start, "rest": self._rest, "random": random_state()}
        return {"n_used": self.n_used, **states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the position; the random state is put back when the epoch goes on."""
        self.n_used = state["n_used"]
        self._start = state["start"]
        self._rest = state.get("rest")
        self._now = state["random"]
        set_random_state(state["random"])


def length_of(loader: Iterable[Any]) -> int | None:
    """Number of batches of an epoch, None where the loader does not know."""
    if not isinstance(loader, Sized):
        return None
    try:
        return len(loader)
    except TypeError:
        # A DataLoader over an iterable data set has __len__, and refuses.
        return None


def groups(batches: Iterator[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    """The batches of each optimiser step; the last group of an epoch may be shorter."""
    while group := list(islice(batches, size)):
        yield group


def _epoch_start(loader: Iterable[Any]) -> dict[str, Any]:
    sampler = _stateful_sampler(loader)
    return {
        "sampler": None if sampler is None else sampler.state_dict(),
        "random": random_state(),
        "generators": [generator.get_state() for generator in _generators(loader)],
    }


def _set_generators(loader: Iterable[Any], start: Mapping[str, Any]) -> None:
    for generator, state in zip(_generators(loader), start["generators"], strict=True):
        generator.set_state(state)


def _put_back(loader: Iterable[Any], rest: Mapping[str, Any]) -> None:
    """Generators and sampler as an epoch left them; the number of the epoch is told afterwards."""
    _set_generators(loader, rest)
    sampler = _stateful_sampler(loader)
    told = callable(getattr(sampler, "set_epoch", None))
    if sampler is not None and rest["sampler"] is not None and not told:
        sampler.load_state_dict(rest["sampler"])


def _drop(iterator: Iterator[Any], n: int) -> None:
    n_dropped = sum(1 for _ in islice(iterator, n))
    if n_dropped < n:
        raise ValueError(
            f"the checkpoint stands {n} batches into its epoch, this loader has only {n_dropped}; "
            "resume with the data, batch size and sampler of the run that wrote it"
        )


def _samplers(loader: Iterable[Any]) -> list[Any]:
    batch_sampler = getattr(loader, "batch_sampler", None)
    inner = getattr(batch_sampler, "sampler", None) or getattr(loader, "sampler", None)
    return [sampler for sampler in (batch_sampler, inner) if sampler is not None]


def _stateful_sampler(loader: Iterable[Any]) -> Any | None:
    for sampler in _samplers(loader):
        if hasattr(sampler, "state_dict") and hasattr(sampler, "load_state_dict"):
            return sampler
    return None


def _generators(loader: Iterable[Any]) -> list[torch.Generator]:
    owners = [loader, *_samplers(loader)]
    found = [getattr(owner, "generator", None) for owner in owners]
    unique = {id(g): g for g in found if isinstance(g, torch.Generator)}
    return list(unique.values())
