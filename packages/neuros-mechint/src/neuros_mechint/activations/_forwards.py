"""Forwards over a data set: what a batch is to a model, and the mode the model runs in."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from neuros_mechint.activations._inputs import Arguments, call_arguments
from neuros_mechint.activations._state import preserved

__all__ = ["batch_arguments", "evaluating"]


def batch_arguments(model: nn.Module, batch: Any) -> Arguments:
    """Arguments of the forward for what a data loader gave; its lists are tuples in disguise."""
    return call_arguments(model, tuple(batch) if isinstance(batch, list) else batch)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a block; every module gets its own mode and buffers back."""
    modes = [(module, module.training) for module in model.modules()]
    with preserved(model):
        try:
            model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training
