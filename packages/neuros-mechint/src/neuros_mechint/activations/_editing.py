"""What an edit is, and how one is called."""

import functools
import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor, nn

from neuros_mechint.activations.site import Site

__all__ = ["ContextEdit", "Edit", "EditContext", "apply", "fitted", "per_row", "with_context"]


@dataclass(frozen=True, slots=True)
class EditContext:
    """Where an edit acts.

    Attributes:
        site: The site it was installed at.
        module: The module of that site.
        call: How many calls of the module came before this one inside the `with` block.

    Examples:
        >>> EditContext(Site("0"), nn.ReLU(), call=2).call
        2
    """

    site: Site
    module: nn.Module
    call: int = 0


@runtime_checkable
class ContextEdit(Protocol):
    def __call__(self, value: Tensor, context: EditContext, /) -> Tensor: ...


Edit = ContextEdit | Callable[[Tensor], Tensor]


def with_context(edit: Edit) -> ContextEdit:
    """Give an edit the two-argument form, whatever it accepts.

    Raises:
        TypeError: When it is not callable with one or two positional arguments.
    """
    if not callable(edit):
        raise TypeError(f"an edit needs a function of a tensor, got {type(edit).__name__}")
    n_needed = _n_required(edit)
    if n_needed > 2:
        raise TypeError(f"an edit takes (value) or (value, context), got {n_needed} parameters")
    if n_needed == 2:
        return cast("ContextEdit", edit)
    one_argument = cast("Callable[[Tensor], Tensor]", edit)
    return lambda value, _context: one_argument(value)


def apply(edit: ContextEdit, value: Tensor, context: EditContext) -> Tensor:
    """Apply an edit and check what it returns.

    Raises:
        TypeError: When it returns no tensor.
        ValueError: When shape or dtype of the result differ from the activation's.
    """
    result = edit(value, context)
    if not isinstance(result, Tensor):
        raise TypeError(
            f"the edit at '{context.site}' needs to return a tensor, got {type(result).__name__}"
        )
    if result.shape != value.shape or result.dtype != value.dtype:
        raise ValueError(
            f"the edit at '{context.site}' returned shape {tuple(result.shape)} ({result.dtype}), "
            f"the activation has shape {tuple(value.shape)} ({value.dtype})"
        )
    return result


def _n_required(edit: Callable[..., Any]) -> int:
    """Count positional parameters without a default."""
    if isinstance(edit, nn.Module):
        return _count_positional(edit.forward)
    if inspect.isroutine(edit):
        return _count_positional(edit)
    # Once per class: reading a signature takes longer than most edits.
    return _count_positional_of(cast("Hashable", type(edit)))


@functools.lru_cache(maxsize=256)
def _count_positional_of(kind: Hashable) -> int:
    return _count_positional(attrgetter("__call__")(kind)) - 1


def _count_positional(function: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # built-in functions such as torch.relu have no signature
        return 1
    return sum(
        p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD} and p.default is p.empty
        for p in parameters
    )


def fitted(name: str, given: Tensor, value: Tensor) -> Tensor:
    """Broadcast `given` to the shape of the activation; its dtype must be right already."""
    if given.dtype != value.dtype:
        raise ValueError(
            f"{name} has dtype {given.dtype} and shape {tuple(given.shape)}, the activation "
            f"{value.dtype} and {tuple(value.shape)}; convert it with .to({value.dtype})"
        )
    try:
        expanded: Tensor = given.to(value.device).expand(value.shape)
    except RuntimeError:
        raise ValueError(
            f"{name} has shape {tuple(given.shape)}, which does not fit the activation's shape "
            f"{tuple(value.shape)}"
        ) from None
    return expanded


def per_row(name: str, factor: float | Tensor, value: Tensor) -> float | Tensor:
    """Shape factors of the rows so that they broadcast over the other dimensions."""
    if not isinstance(factor, Tensor) or factor.ndim == 0:
        return factor if not isinstance(factor, Tensor) else factor.to(value)
    if factor.shape != value.shape[:1]:
        raise ValueError(
            f"{name} has shape {tuple(factor.shape)}; it needs one number, or one per row of the "
            f"activation {tuple(value.shape)}"
        )
    column: Tensor = factor.to(value).reshape(-1, *[1] * (value.ndim - 1))
    return column
