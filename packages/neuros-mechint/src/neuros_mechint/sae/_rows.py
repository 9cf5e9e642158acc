"""Activations as rows, wherever they come from: tensors, a store or the forward of a model."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from neuros_mechint.activations import ActivationStore, SiteLike, run
from neuros_mechint.activations._forwards import batch_arguments
from neuros_mechint.activations._inputs import Arguments
from neuros_mechint.activations._state import evaluating

__all__ = [
    "Coding",
    "ModelBatch",
    "check_coder",
    "coding",
    "model_batches",
    "pieces",
    "row_batches",
]


@runtime_checkable
class Coding(Protocol):
    """What the evaluation needs of a coder."""

    @property
    def dictionary(self) -> Tensor:
        """Directions of the features, shape (feature, width)."""

    def encode(self, x: Tensor, /) -> Tensor:
        """Features of activations."""

    def decode(self, f: Tensor, /) -> Tensor:
        """Activations of features."""


class ModelBatch(NamedTuple):
    """One batch of a data set in a model.

    Attributes:
        batch: As the data loader gave it.
        arguments: As the forward takes it.
        output: What the model returned.
        values: The activations at the sites, each of shape (..., width).
    """

    batch: Any
    arguments: Arguments
    output: Any
    values: tuple[Tensor, ...]


def check_coder(coder: object) -> None:
    """Raise unless an object encodes and decodes."""
    if not isinstance(coder, Coding):
        raise TypeError(
            f"coder needs encode, decode and dictionary, as a SparseAutoencoder has, got a "
            f"{type(coder).__name__}"
        )


def coding(*modules: object) -> ExitStack:
    """Evaluation mode for models and coders, and no gradient, for the length of a block."""
    stack = ExitStack()
    stack.enter_context(torch.no_grad())
    for module in modules:
        if isinstance(module, nn.Module):
            stack.enter_context(evaluating(module))
    return stack


def row_batches(
    data: Tensor | ActivationStore | Iterable[Any], site: SiteLike | None, batch_size: int
) -> Iterator[Tensor]:
    """Yield rows, shape (batch, width), in the order of the data."""
    if isinstance(data, ActivationStore):
        if site is None and len(data.sites) == 1:
            site = data.sites[0]
        data.shape(site)  # names the stored sites when one is missing
        for batch in data.batches(batch_size, sites=site):
            yield from batch.values()
        return
    if site is not None:
        raise ValueError("site= needs a model, or a store of activations as data")
    for tensor in [data] if isinstance(data, Tensor) else data:
        if not isinstance(tensor, Tensor) or tensor.ndim < 2:
            given = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"data needs activations of shape (..., width), got {given}")
        yield from pieces(tensor.reshape(-1, tensor.shape[-1]), batch_size)


def model_batches(
    model: nn.Module, data: Any, sites: Sequence[SiteLike], batch_size: int, *, whole: bool
) -> Iterator[ModelBatch]:
    """Run a model over data and yield the activations at one site or several.

    Args:
        model: Any module.
        data: Batches, or one tensor of inputs that is cut into batches.
        sites: Where to read.
        batch_size: Inputs of a batch of a tensor.
        whole: Run forwards to their end, for their output.
    """
    batches = pieces(data, batch_size) if isinstance(data, Tensor) else data
    for batch in batches:
        arguments = args, kwargs = batch_arguments(model, batch)
        output, cache = run(model, *args, capture=sites, stop=not whole, **kwargs)
        yield ModelBatch(batch, arguments, output, tuple(cache[site] for site in sites))


def pieces(tensor: Tensor, size: int) -> Iterator[Tensor]:
    """Cut a tensor along its first dimension."""
    for start in range(0, len(tensor), size):
        yield tensor[start : start + size]


def feature_numbers(coder: Coding, features: Sequence[int] | None) -> Tensor:
    """Numbers of features, checked; None is all of them."""
    n = len(coder.dictionary)
    if features is None:
        return torch.arange(n)
    bad = [i for i in features if not 0 <= i < n]
    if bad:
        raise IndexError(f"the coder has features 0 to {n - 1}, got {bad}")
    return torch.tensor(list(features), dtype=torch.int64)
