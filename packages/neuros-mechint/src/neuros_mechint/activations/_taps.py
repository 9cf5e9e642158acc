"""What runs at a site: one tap edits its tensor, another captures it."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from neuros_mechint.activations._container import Path, get_leaf, locate, put_leaf
from neuros_mechint.activations._editing import Edit, EditContext, apply, with_context
from neuros_mechint.activations.cache import Guard, convert, version_of
from neuros_mechint.activations.site import Site

__all__ = ["CaptureTap", "EditTap", "Turns", "Watch", "find_tensor", "indexed"]


def find_tensor(module: nn.Module, site: Site, holder: Any) -> Path:
    """Path of a site's tensor inside an output, or inside `(args, kwargs)` on the input side."""
    if site.key is None and isinstance(holder, Tensor):
        return ()
    try:
        if site.io == "output" or site.key is None:
            return locate(holder, site.key)
        return _find_argument(module, site.key, *holder)
    except (KeyError, TypeError) as error:
        raise type(error)(f"site '{site}': {error.args[0]}") from None


def _find_argument(
    module: nn.Module, key: int | str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Path:
    """Path of an argument: by position, keyword or parameter name, or in a dict passed first."""
    if isinstance(key, int):
        return (0, *locate(args, key))
    if key in kwargs:
        return (1, *locate(kwargs, key))
    parameters = [*inspect.signature(module.forward).parameters]
    if key in parameters[: len(args)]:
        return (0, *locate(args, parameters.index(key)))
    if args and not isinstance(args[0], Tensor):
        return (0, 0, *locate(args[0], key))
    raise KeyError(
        f"no argument {key!r} in a call with {len(args)} positional arguments and {sorted(kwargs)}"
    )


def indexed(site: Site, value: Tensor) -> Tensor:
    """Apply the site's index to its tensor.

    Raises:
        IndexError: When it does not fit; the message names the site and the shape.
    """
    try:
        return value[site.index]
    except (IndexError, TypeError) as error:
        raise IndexError(
            f"site '{site}': the index does not fit shape {tuple(value.shape)}: {error}"
        ) from None


class Turns:
    """Counts the calls of a module and picks the ones that a site names."""

    __slots__ = ("calls", "hits", "wanted")

    def __init__(self, site: Site) -> None:
        self.wanted = site.call
        self.calls = 0
        self.hits = 0

    def take(self) -> int | None:
        """Count one call; return its number when the site means it."""
        call = self.calls
        self.calls = call + 1
        if self.wanted is not None and self.wanted != call:
            return None
        self.hits += 1
        return call


class Watch:
    """A tap that tells of a call."""

    edits = False

    def __init__(self, told: Callable[[nn.Module], None]) -> None:
        self.told = told

    def __call__(self, module: nn.Module, holder: Any) -> Any:
        self.told(module)
        return holder


class EditTap:
    """Exchange the tensor of a site for the edit's result."""

    edits = True

    def __init__(self, site: Site, edit: Edit) -> None:
        self.site = site
        self.turns = Turns(site)
        self.edit = with_context(edit)

    @property
    def calls(self) -> int:
        """How often the module was called."""
        return self.turns.calls

    @property
    def reached(self) -> bool:
        """Whether the site was met."""
        return self.turns.hits > 0

    def __call__(self, module: nn.Module, holder: Any) -> Any:
        call = self.turns.take()
        if call is None:
            return holder
        context = EditContext(self.site, module, call)
        path = find_tensor(module, self.site, holder)
        value: Tensor = get_leaf(holder, path)
        if self.site.index is None:
            return put_leaf(holder, path, apply(self.edit, value, context))
        changed = value.clone()
        changed[self.site.index] = apply(self.edit, indexed(self.site, value), context)
        return put_leaf(holder, path, changed)


class CaptureTap:
    """Hand the tensor of a site to a cache, then report that it was reached."""

    __slots__ = (
        "clone",
        "convert_to",
        "detach",
        "fired",
        "guards",
        "kept",
        "site",
        "turns",
        "whole",
    )

    edits = False

    def __init__(
        self,
        site: Site,
        kept: list[Tensor],
        guards: list[Guard],
        *,
        detach: bool,
        clone: bool,
        convert_to: tuple[torch.device | str | None, torch.dtype | None] | None,
        fired: Callable[["CaptureTap"], None] | None,
    ) -> None:
        self.site = site
        # A site of every call needs no count: what it kept says how often it was reached.
        self.turns = None if site.call is None else Turns(site)
        self.kept, self.guards = kept, guards
        self.detach, self.clone = detach, clone
        self.convert_to = convert_to
        self.fired = fired
        # The common case, a tensor as it is, needs no search for it.
        self.whole = site.io == "output" and site.key is None and site.index is None

    @property
    def calls(self) -> int:
        """How often the module was called."""
        return len(self.kept) if self.turns is None else self.turns.calls

    @property
    def reached(self) -> bool:
        """Whether the site was met."""
        return bool(self.kept)

    def __call__(self, module: nn.Module, holder: Any) -> Any:
        if self.turns is not None and self.turns.take() is None:
            return holder
        value: Tensor
        if self.whole and isinstance(holder, Tensor):
            kept = value = holder
        else:
            value = get_leaf(holder, find_tensor(module, self.site, holder))
            kept = value if self.site.index is None else indexed(self.site, value)
        if self.detach:
            kept = kept.detach()
        if self.convert_to is not None:
            kept = convert(kept, *self.convert_to)
        # Inference tensors do not count their in-place changes: only a copy is safe.
        if self.clone or value.is_inference():
            kept = kept.clone()
        else:
            self.guards.append((self.site, kept, version_of(kept)))
        self.kept.append(kept)
        if self.fired is not None:
            self.fired(self)
        return holder
