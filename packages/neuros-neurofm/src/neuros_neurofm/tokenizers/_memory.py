"""What the causal parts of a tokenizer carry from one chunk of a stream to the next."""

from collections.abc import Mapping
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["NOTHING", "Memory"]


class Memory:
    """The past of a stream, read and continued by the parts that look back.

    A part names what it needs: the entries before a chunk (`extend`), a sum or the largest entry
    since the start (`accumulate`, `maximum`) or the first valid entry (`first`). Without a past
    every answer is that of a recording that begins with the chunk, so a part has one path for
    recordings and streams.

    Args:
        past: Tensors that the calls on the chunk before have left in `after`, {} at the start of
            a stream, None outside streams: nothing is then kept.
    """

    def __init__(self, past: Mapping[str, Tensor] | None) -> None:
        self.past = past
        self.after: dict[str, Tensor] = {}
        self._prefix = ""

    def at(self, name: str) -> "Memory":
        """The same memory with `name` before the names, for a part inside a part."""
        inner = Memory(self.past)
        inner.after = self.after
        inner._prefix = f"{self._prefix}{name}."
        return inner

    def extend(self, name: str, x: Tensor, length: int, *, dim: int = 1) -> Tensor:
        """The chunk with the `length` entries before it; zeros stand before the first."""
        key = self._prefix + name
        past = None if self.past is None else self.past.get(key)
        if past is None:
            shape = list(x.shape)
            shape[dim] = length
            past = x.new_zeros(shape)
        both = torch.cat([past, x], dim=dim)
        if self.past is not None:
            # A copy: a view would keep the whole chunk alive.
            self.after[key] = both.narrow(dim, x.shape[dim], length).clone()
        return both

    def accumulate(self, name: str, x: Tensor) -> Tensor:
        """Sums over axis 1 from the start of the recording up to each entry.

        In float64 in a stream: after 2^24 samples a float32 count stands still.
        """
        if self.past is None:
            return x.cumsum(1)
        key = self._prefix + name
        total = x.cumsum(1, dtype=torch.float64)
        before = self.past.get(key)
        if before is not None:
            total = before + total
        self.after[key] = _last(total)
        return total

    def maximum(self, name: str, x: Tensor) -> Tensor:
        """The largest entry along axis 1 from the start of the recording up to each entry."""
        largest = x.cummax(1).values
        if self.past is None:
            return largest
        key = self._prefix + name
        if key in self.past:
            largest = torch.maximum(self.past[key], largest)
        self.after[key] = _last(largest)
        return largest

    def first(
        self,
        name: str,
        x: Float[Tensor, "batch time channel"],
        valid: Bool[Tensor, "batch time channel"],
    ) -> Float[Tensor, "batch 1 channel"]:
        """The first valid entry along axis 1 since the start, 0 before there is one."""
        index = valid.to(torch.uint8).argmax(1, keepdim=True)
        found = x.gather(1, index)
        if self.past is None:
            return found
        key, seen_key = self._prefix + name, f"{self._prefix}{name}_seen"
        seen = valid.any(1, keepdim=True)
        if key in self.past:
            found = torch.where(self.past[seen_key], self.past[key], found)
            seen = self.past[seen_key] | seen
        self.after[key], self.after[seen_key] = found, seen
        return found


def _last(x: Tensor) -> Tensor:
    # A copy where there is more: a view would keep the whole chunk alive.
    return x if x.shape[1] == 1 else x[:, -1:].clone()


NOTHING: Final = Memory(None)
