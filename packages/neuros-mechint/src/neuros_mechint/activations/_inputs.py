"""How one value that stands for all inputs of a model becomes the arguments of its forward."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from neuros_mechint.activations._container import first_tensor, map_leaves

__all__ = ["Arguments", "call_arguments", "count_rows", "tile_rows"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def call_arguments(model: nn.Module, inputs: Any) -> Arguments:
    """Positional and keyword arguments of a forward.

    A tuple holds the positional arguments. A mapping whose every key names a parameter of the
    forward holds the keyword arguments. Anything else, such as a tensor or a dict of modalities, is
    the one argument.
    """
    if isinstance(inputs, tuple) and not hasattr(inputs, "_fields"):
        return inputs, {}
    if isinstance(inputs, Mapping) and inputs:
        parameters = inspect.signature(model.forward).parameters.values()
        named = {p.name for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}}
        if named.issuperset(inputs):
            return (), dict(inputs)
    return (inputs,), {}


def count_rows(arguments: Arguments) -> int:
    """Batch size: the length of the first dimension of the first tensor."""
    tensor = first_tensor(arguments)
    if tensor.ndim == 0:
        raise ValueError("the inputs need a batch dimension, got a tensor without dimensions")
    return tensor.shape[0]


def tile_rows(arguments: Arguments, n_rows: int, copies: int) -> Arguments:
    """Repeat every tensor of `n_rows` rows, copy after copy; others stay as they are."""

    def tile(_path: object, leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == n_rows:
            return leaf.repeat(copies, *[1] * (leaf.ndim - 1))
        return leaf

    tiled: Arguments = map_leaves(tile, arguments)
    return tiled
