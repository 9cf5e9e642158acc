"""Where training rows come from: tensors, a store on disk, or a model that is running."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from neuros_mechint.activations import SiteLike

__all__ = ["Activations", "RowBuffer", "RowStore", "SiteKey", "TensorRows", "as_store", "parts_of"]


@runtime_checkable
class RowStore(Protocol):
    """What training needs of a store of activations; `ActivationStore` is one."""

    def __len__(self) -> int:
        """Number of rows."""

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool,
        generator: torch.Generator | None,
        sites: Sequence[SiteLike] | None,
    ) -> Iterator[dict[str, Tensor]]:
        """Read all rows once."""


SiteKey: TypeAlias = SiteLike | tuple[SiteLike, ...]
"""One site, or the sites that a coder takes together."""

Activations: TypeAlias = Tensor | Sequence[Tensor] | Mapping[str, Tensor] | RowStore


class TensorRows:
    """Tensors in memory, read like a store; the same row of each belongs together."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self.tensors: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor) or tensor.ndim < 2:
                raise ValueError(
                    f"activations need shape (rows, width), got "
                    f"{getattr(tensor, 'shape', type(tensor).__name__)}"
                )
            self.tensors[name] = tensor.detach().reshape(-1, tensor.shape[-1])
        lengths = {len(tensor) for tensor in self.tensors.values()}
        if len(lengths) != 1 or not lengths.pop():
            found = {name: len(tensor) for name, tensor in self.tensors.items()}
            raise ValueError(f"activations need one number of rows, at least 1, got {found}")

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool,
        generator: torch.Generator | None,
        sites: Sequence[SiteLike] | None,
    ) -> Iterator[dict[str, Tensor]]:
        """Read all rows once."""
        chosen = self.tensors if sites is None else {str(s): self.tensors[str(s)] for s in sites}
        order = torch.arange(len(self))
        if shuffle:
            order = torch.randperm(len(self), generator=generator)
        for rows in torch.split(order, batch_size):
            yield {name: tensor[rows.to(tensor.device)] for name, tensor in chosen.items()}


def as_store(activations: Activations) -> RowStore:
    """Let tensors be read like a store."""
    if isinstance(activations, Tensor):
        return TensorRows({"": activations})
    if isinstance(activations, Mapping):
        return TensorRows({str(name): tensor for name, tensor in activations.items()})
    if isinstance(activations, Sequence):
        return TensorRows({str(place): tensor for place, tensor in enumerate(activations)})
    if not hasattr(activations, "batches"):
        raise TypeError(
            f"activations need to be tensors or an ActivationStore, got "
            f"{type(activations).__name__}"
        )
    return activations


def parts_of(batch: Mapping[str, Tensor], names: Sequence[str] | None, needed: int) -> list[Tensor]:
    """Tensors of a batch in the order in which a coder takes them."""
    chosen = list(batch.values()) if names is None else [batch[name] for name in names]
    if len(chosen) != needed:
        raise ValueError(
            f"this coder takes {needed} tensors per row, got {len(chosen)}: {list(batch)}; name "
            "the sites with site="
        )
    return chosen


class RowBuffer:
    """Mix the rows of several forwards, so that a batch holds more than one stretch of data.

    Args:
        batch_size: Rows of a batch.
        capacity: Rows that are collected before the first batch leaves.
        generator: Source of the order.
    """

    def __init__(self, batch_size: int, capacity: int, generator: torch.Generator) -> None:
        self.batch_size = batch_size
        self.capacity = max(capacity, batch_size)
        self.generator = generator
        self.parts: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.parts[0]) if self.parts else 0

    def push(self, parts: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Add rows; batches leave while more than half of the capacity is filled."""
        lengths = {len(part) for part in parts}
        if len(lengths) > 1:
            raise ValueError(
                f"the sites of one coder need the same number of rows, got {sorted(lengths)}"
            )
        pairs = zip(self.parts, parts, strict=True)
        self.parts = [torch.cat(pair) for pair in pairs] if self.parts else list(parts)
        if len(self) >= self.capacity:
            yield from self._leave(self.capacity // 2)

    def flush(self) -> Iterator[list[Tensor]]:
        """Give out everything; the last batch may have fewer rows."""
        yield from self._leave(0)

    def _leave(self, kept: int) -> Iterator[list[Tensor]]:
        if not len(self):
            return
        order = torch.randperm(len(self), generator=self.generator)
        mixed = [part[order.to(part.device)] for part in self.parts]
        n_leaving = len(order) - kept
        if kept:
            # Only the end of the data may make a short batch.
            n_leaving -= n_leaving % self.batch_size
        self.parts = [part[n_leaving:].clone() for part in mixed]
        batches = zip(
            *(torch.split(part[:n_leaving], self.batch_size) for part in mixed), strict=True
        )
        yield from map(list, batches)

    def state(self) -> dict[str, Any]:
        """Rows that have not left, and the generator."""
        return {"parts": self.parts, "generator": self.generator.get_state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self.parts = list(state["parts"])
        self.generator.set_state(state["generator"])
