"""Forwards over a data set: what a batch is to a model."""

from typing import Any

from torch import nn

from neuros_mechint.activations._inputs import Arguments, call_arguments

__all__ = ["batch_arguments"]


def batch_arguments(model: nn.Module, batch: Any) -> Arguments:
    """Arguments of the forward for what a data loader gave; its lists are tuples in disguise."""
    return call_arguments(model, tuple(batch) if isinstance(batch, list) else batch)
