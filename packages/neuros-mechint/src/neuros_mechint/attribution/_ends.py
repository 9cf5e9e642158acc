"""Both ends of the line: the tensors of the input's run, and those of the baseline's."""

from typing import Any

import torch
from torch import Tensor, nn

from neuros_mechint.activations import Site, intervene
from neuros_mechint.activations._container import get_leaf, leaves, map_leaves, put_leaf
from neuros_mechint.activations._inputs import Arguments, call_arguments
from neuros_mechint.activations._state import preserved

__all__ = ["as_baseline", "captured", "paths_of_floats"]

Path = tuple[Any, ...]


def paths_of_floats(arguments: Arguments, n_rows: int) -> list[Path]:
    """Paths of the floating-point tensors that carry the batch.

    Raises:
        ValueError: When there is none.
    """
    found = [path for path, leaf in leaves(arguments) if _is_float(leaf, n_rows)]
    if not found:
        raise ValueError(
            "x holds no floating-point tensor with a row per input row; name a site to attribute "
            "to, such as the embedding of the tokens"
        )
    return found


def as_baseline(x: Any, baseline: Any) -> Any:
    """Give the baseline the form of `x`: zeros or one number for every floating-point tensor.

    Raises:
        ValueError: When there is no baseline and nothing to make one from, or it does not fit.
    """
    floats = any(isinstance(v, Tensor) and v.is_floating_point() for _, v in leaves(x))
    if baseline is None or isinstance(baseline, (int, float)):
        if not floats:
            raise ValueError(
                "x holds no floating-point tensor to set to a number; give a baseline in the form "
                "of x, such as padding tokens"
            )
        number = 0.0 if baseline is None else float(baseline)
        return map_leaves(lambda _, leaf: _filled(leaf, number), x)
    if [path for path, _ in leaves(baseline)] != [path for path, _ in leaves(x)]:
        raise ValueError(
            f"baseline needs the form of x, a {type(x).__name__}, got a {type(baseline).__name__} "
            "with other members"
        )
    return map_leaves(lambda path, leaf: _fitted(leaf, get_leaf(baseline, path)), x)


def captured(model: nn.Module, inputs: Any, site: Site) -> tuple[Tensor, ...]:
    """Every call of a site in a run of the model, without gradient.

    Raises:
        ValueError: When the site holds integers.
    """
    args, kwargs = call_arguments(model, inputs)
    with preserved(model), torch.no_grad(), intervene(model, capture=[site], clone=True) as cache:
        model(*args, **kwargs)
    calls = cache.calls(site)
    for value in calls:
        if not value.is_floating_point():
            raise ValueError(
                f"site '{site}' holds {value.dtype}, along which there is no line; name a site "
                "of floating-point numbers"
            )
    return calls


def placed(arguments: Arguments, values: dict[Path, Tensor]) -> Arguments:
    """Arguments with some leaves exchanged."""
    for path, value in values.items():
        arguments = put_leaf(arguments, path, value)
    return arguments


def _is_float(leaf: Any, n_rows: int) -> bool:
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return False
    return leaf.ndim > 0 and leaf.shape[0] == n_rows


def _filled(leaf: Any, number: float) -> Any:
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return torch.full_like(leaf, number)
    return leaf


def _fitted(leaf: Any, given: Any) -> Any:
    if not isinstance(leaf, Tensor) or not isinstance(given, Tensor):
        return given
    if given.dtype != leaf.dtype:
        raise ValueError(
            f"baseline has dtype {given.dtype}, x has {leaf.dtype}; convert it with "
            f".to({leaf.dtype})"
        )
    try:
        return given.to(leaf.device).expand(leaf.shape)
    except RuntimeError:
        raise ValueError(
            f"baseline of shape {tuple(given.shape)} does not fit x of shape {tuple(leaf.shape)}"
        ) from None
