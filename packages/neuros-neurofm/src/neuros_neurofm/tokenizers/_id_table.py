"""A growable list of string ids that travels inside the state-dict."""

import json
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["IdTable"]


class IdTable(nn.Module):
    """Ordered, unique ids; stored as UTF-8 bytes so that tensor-only formats can hold them."""

    def __init__(self) -> None:
        super().__init__()
        self._index: dict[str, int] = {}

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids in the order of their rows."""
        return tuple(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def append(self, ids: Sequence[str]) -> None:
        """Adds new ids at the end."""
        checked_ids(ids)
        known = [name for name in ids if name in self._index]
        if known:
            raise ValueError(f"ids must be new, but {known[:5]} are in the table already")
        for name in ids:
            self._index[name] = len(self._index)

    def rows(self, ids: Sequence[str]) -> list[int]:
        """Row of each id, -1 where unknown."""
        return [self._index.get(name, -1) for name in ids]

    def get_extra_state(self) -> Tensor:
        """The ids as bytes."""
        return torch.frombuffer(bytearray(json.dumps(self.ids).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Reads the ids back from bytes."""
        self._index = {}
        self.append(json.loads(bytes(state.tolist()).decode()))


def checked_ids(ids: Sequence[str]) -> None:
    """Ids are unique strings; one bare string would be read as a list of letters."""
    if isinstance(ids, str) or not all(isinstance(name, str) for name in ids):
        raise TypeError("units must be a sequence of str, one per channel")
    if len(set(ids)) != len(ids):
        twice = sorted({name for name in ids if list(ids).count(name) > 1})
        raise ValueError(f"units must be unique, but {twice[:5]} occur more than once")
