"""Forward-mode derivatives without the products by zero that torch's own rules compute.

For `linear`, `addmm` and convolutions torch fills in zeros for the tangent of the weights and
multiplies by them, a third of the work of a dual forward. Weights have no tangent here.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as fn
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

__all__ = ["dual_forward", "lifted", "tangent_of"]

# torch leaves these two without types.
_make_dual: Callable[[Tensor, Tensor], Tensor] = vars(forward_ad)["make_dual"]
_unpack_dual: Callable[[Tensor], tuple[Tensor, Tensor | None]] = vars(forward_ad)["unpack_dual"]

# Functions that are affine in their first argument while weight and bias stay fixed.
_AFFINE = (fn.linear, fn.conv1d, fn.conv2d, fn.conv3d)


def lifted(leaf: Tensor, direction: Tensor) -> Tensor:
    """Give a leaf its tangent."""
    return _make_dual(leaf, direction)


def tangent_of(value: Tensor) -> Tensor:
    """Tangent of a value; zeros where it does not depend on the line."""
    _, tangent = _unpack_dual(value)
    return torch.zeros_like(value) if tangent is None else tangent.detach()


@contextmanager
def dual_forward() -> Iterator[None]:
    """Run a block in which tangents travel along with the values."""
    _load_rules()
    # The fused attention kernels know no tangents.
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), _AffineRule():
        yield


@functools.cache
def _load_rules() -> None:
    """Let torch build its table of derivatives, which it does with a deprecated function."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        _make_dual(torch.zeros(1), torch.zeros(1))


class _AffineRule(TorchFunctionMode):
    """Send the tangent through an affine function by the function itself, without its bias."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of every function of tensors."""
        named = dict(kwargs or {})
        if func in _AFFINE:
            return _affine(func, args, named)
        if func is torch.addmm and not named:
            return _addmm(*args)
        return func(*args, **named)


def _affine(func: Callable[..., Tensor], args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    value, *rest = args or (named.pop("input"),)
    primal, tangent = _unpack_dual(value)
    if tangent is None or not all(_is_fixed(other) for other in (*rest, *named.values())):
        return func(value, *rest, **named)
    with torch.no_grad():
        weight_only = [rest[0], None, *rest[2:]] if len(rest) > 1 else rest
        change = func(
            tangent, *weight_only, **{**named, "bias": None} if "bias" in named else named
        )
    return lifted(func(primal, *rest, **named), change)


def _addmm(bias: Tensor, value: Tensor, weight: Tensor) -> Tensor:
    primal, tangent = _unpack_dual(value)
    if tangent is None or not (_is_fixed(bias) and _is_fixed(weight)):
        return torch.addmm(bias, value, weight)
    with torch.no_grad():
        change = tangent @ weight
    return lifted(torch.addmm(bias, primal, weight), change)


def _is_fixed(other: Any) -> bool:
    return not isinstance(other, Tensor) or _unpack_dual(other)[1] is None
