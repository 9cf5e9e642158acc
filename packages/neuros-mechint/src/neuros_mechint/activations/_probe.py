"""Probe batches: how they are kept, moved and run, and how their activations are put together."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from neuros_mechint.activations._container import map_leaves

__all__ = ["Forward", "copied", "moved", "run_batch", "stacked"]

Forward = Callable[[nn.Module, Any], Any]


def copied(batch: Any) -> Any:
    """Copy of a batch, because a loader may fill the same tensors again."""
    return map_leaves(
        lambda _, leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, batch
    )


def moved(batch: Any, model: nn.Module) -> Any:
    """Batch on the device of the model's first parameter."""
    parameter = next(model.parameters(), None)
    if parameter is None:
        return batch
    device = parameter.device
    return map_leaves(lambda _, leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch)


def run_batch(model: nn.Module, batch: Any) -> Any:
    """Run a model on a batch as a training loop would, the targets left out."""
    forward_batch = getattr(model, "forward_batch", None)
    if callable(forward_batch):
        return forward_batch(batch)
    if isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields"):
        return model(batch[0])
    named = _named_arguments(model, batch) if isinstance(batch, Mapping) else None
    return model(batch) if named is None else model(**named)


def stacked(name: str, values: Sequence[Shaped[Tensor, "..."]]) -> Shaped[Tensor, "..."]:
    """Rows of all batches in one tensor, 16-bit floats as 32-bit ones.

    Raises:
        ValueError: When they differ in more than the number of rows.
    """
    shapes = {tuple(value.shape[1:]) for value in values}
    if len(shapes) > 1 or values[0].ndim == 0:
        raise ValueError(
            f"the activations at '{name}' have the shapes {[tuple(v.shape) for v in values]}; "
            "probe batches need to be alike in all but their rows: pad them, or pass probe="
        )
    joined = torch.cat([*values])
    return joined.float() if joined.is_floating_point() and joined.dtype.itemsize < 4 else joined


def _named_arguments(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any] | None:
    """Members of a batch that a forward names; None when it asks for others."""
    parameters = inspect.signature(model.forward).parameters.values()
    named = [p for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}]
    chosen = {p.name: batch[p.name] for p in named if p.name in batch}
    required = {p.name for p in named if p.default is p.empty}
    return chosen if chosen and required.issubset(chosen) else None
