"""Where training stands, on disk, so that it goes on to the bit."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from neuros_mechint.sae._sources import RowStore

__all__ = ["Checkpoint", "Position"]


class Checkpoint:
    """One file that is replaced again and again.

    Args:
        path: The file; None keeps nothing.
        every: Steps between two writes.
        settings: What a continued training has to share with the one that wrote the file.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, every: int, settings: Mapping[str, Any]
    ) -> None:
        if every < 1:
            raise ValueError(f"checkpoint_every needs at least 1 step, got {every}")
        self._path = None if path is None else Path(path)
        self._every = every
        self._settings = dict(settings)
        self._last = 0

    def read(self) -> dict[str, Any] | None:
        """Return what was written last; None when there is nothing."""
        if self._path is None or not self._path.exists():
            return None
        # A file that was cut off has lost the directory that a zip file ends with.
        state: dict[str, Any] = {}
        if is_zipfile(self._path):
            state = torch.load(self._path, weights_only=True)
        if "settings" not in state:
            raise ValueError(f"{self._path} is not a whole training checkpoint")
        settings = state.pop("settings")
        differing = {
            name: (settings.get(name), wanted)
            for name, wanted in self._settings.items()
            if settings.get(name) != wanted
        }
        if differing:
            raise ValueError(
                f"{self._path} was written by another training, (there, here): {differing}; "
                "continue with the same settings or take another path"
            )
        self._last = int(state["step"])
        return state

    def is_due(self, step: int) -> bool:
        """Whether it is time to write."""
        return self._path is not None and step - self._last >= self._every

    def write(self, step: int, state: Mapping[str, Any]) -> None:
        """Replace the file; a kill in between leaves the old one."""
        if self._path is None:
            return
        self._last = step
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(self._path.name + ".partial")
        torch.save({**state, "step": step, "settings": self._settings}, partial)
        partial.replace(self._path)


class Position:
    """Place in shuffled data: the epoch, the batches of it that are done, and its order.

    Args:
        generator: Source of the order of each epoch.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._order = generator.get_state()
        self._done = 0
        self.epoch = 0

    def batches(
        self, store: RowStore, names: Sequence[str] | None, batch_size: int
    ) -> Iterator[dict[str, Tensor]]:
        """Read the rest of the epoch."""
        self._generator.set_state(self._order)
        found = store.batches(batch_size, shuffle=True, generator=self._generator, sites=names)
        for batch in islice(found, self._done, None):
            self._done += 1
            yield batch
        self.epoch += 1
        self._done = 0
        self._order = self._generator.get_state()

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        return {"epoch": self.epoch, "done": self._done, "order": self._order}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self.epoch, self._done, self._order = state["epoch"], state["done"], state["order"]
