"""Edits and captures for the length of a `with` block."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import nn

from neuros_mechint.activations import _hooks
from neuros_mechint.activations._heap import keep_freed_memory
from neuros_mechint.activations._taps import CaptureTap, EditTap
from neuros_mechint.activations.cache import ActivationCache
from neuros_mechint.activations.edit import Edit
from neuros_mechint.activations.site import Site, SiteLike, as_site, find_module

__all__ = ["Run", "intervene", "run"]


class Run(NamedTuple):
    """Result of one forward under intervention.

    Attributes:
        output: What the model returned; None when `stop=True` ended the forward.
        cache: The captured activations.
    """

    output: Any
    cache: ActivationCache


def intervene(
    model: nn.Module,
    edits: Mapping[SiteLike, Edit] | None = None,
    *,
    capture: Iterable[SiteLike] = (),
    stop: bool = False,
    detach: bool = True,
    clone: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> AbstractContextManager[ActivationCache]:
    """Install edits and captures on a model for the length of a `with` block.

    Contexts nest: inner edits see what outer edits made, and a capture, wherever it was installed,
    sees the value after all edits at its site. Whatever happens inside, the model leaves the block
    as it entered it.

    Args:
        model: Any module.
        edits: Site -> edit, applied in this order; a function of the tensor, or of the tensor and
            an `EditContext`. Without `@call` in the site it acts on every call of the module.
        capture: Sites whose tensors are put into the cache.
        stop: End the forward as soon as every captured site was reached. The statement that called
            the model is left at that point, so a name it would have bound stays unbound.
        detach: Cut captured tensors from the autograd graph.
        clone: Copy captured tensors. Without it, a tensor that the model overwrites in place later
            is reported by a RuntimeError; models with modules of `inplace=True` are always copied.
        device: Where captured tensors go; None leaves them.
        dtype: Data type of captured floating-point tensors; None leaves it.

    Returns:
        A context manager; it binds the `ActivationCache`.

    Raises:
        KeyError: When a path names no module.
        RuntimeError: At the end of the block, when a site was not reached or a captured tensor was
            overwritten in place.
        TypeError: When an edit or a site is of the wrong kind.
        ValueError: When a site lies inside compiled code, or `stop` has nothing to wait for.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
        >>> with intervene(net, {"0": lambda x: -torch.ones_like(x)}, capture=["0", "1"]) as cache:
        ...     _ = net(torch.ones(1, 2))
        >>> cache["0"], cache["1"]
        (tensor([[-1., -1.]]), tensor([[0., 0.]]))
    """
    captured: list[SiteLike] = (
        [capture] if isinstance(capture, (str, Site, nn.Module)) else [*capture]
    )
    if stop and not captured:
        raise ValueError("stop=True needs at least one site in capture to stop at")
    return _Intervention(
        model,
        dict(edits or {}),
        captured,
        stop=stop,
        detach=detach,
        clone=clone or (bool(captured) and _has_inplace_modules(model)),
        convert_to=(device, dtype),
    )


def run(
    model: nn.Module,
    *inputs: Any,
    edits: Mapping[SiteLike, Edit] | None = None,
    capture: Iterable[SiteLike] = (),
    stop: bool = False,
    **kwargs: Any,
) -> Run:
    """Run one forward under intervention.

    Args:
        model: Any module.
        *inputs: Positional arguments of the forward.
        edits: Site -> edit, as in `intervene`.
        capture: Sites whose tensors are put into the cache.
        stop: End the forward as soon as every captured site was reached.
        **kwargs: Keyword arguments of the forward.

    Returns:
        The output (None when stopped) and the cache.

    Raises:
        KeyError: When a path names no module.
        RuntimeError: When a site was not reached or a captured tensor was overwritten in place.
        ValueError: When a site lies inside compiled code, or `stop` has nothing to wait for.

    Examples:
        >>> net = nn.Sequential(nn.Identity(), nn.ReLU())
        >>> result = run(net, torch.tensor([-1.0, 2.0]), capture=["0"])
        >>> result.output, result.cache["0"]
        (tensor([0., 2.]), tensor([-1.,  2.]))
    """
    output = None
    with intervene(model, edits, capture=capture, stop=stop) as cache:
        output = model(*inputs, **kwargs)
    return Run(output, cache)


# Not an Exception, so that no `except Exception` of the model can swallow it.
class _ForwardEnded(BaseException):
    """Raised by the last captured site when the forward is to stop there."""


class _Intervention(AbstractContextManager[ActivationCache]):
    def __init__(
        self,
        model: nn.Module,
        edits: Mapping[SiteLike, Edit],
        capture: list[SiteLike],
        *,
        stop: bool,
        detach: bool,
        clone: bool,
        convert_to: tuple[torch.device | str | None, torch.dtype | None] | None,
    ) -> None:
        self._cache = ActivationCache()
        self._end = _ForwardEnded()
        self._state = "new"
        self._taps: list[tuple[nn.Module, _hooks.Side, EditTap | CaptureTap]] = []
        for like, edit in edits.items():
            site = as_site(model, like)
            self._taps.append((find_module(model, site), site.io, EditTap(site, edit)))
        fired = self._on_fired if stop else None
        convert_to = None if convert_to == (None, None) else convert_to
        for like in capture:
            site = as_site(model, like)
            module = find_module(model, site)
            lists = self._cache.open_site(site, like)
            if lists is None:
                continue
            tap = CaptureTap(
                site, *lists, detach=detach, clone=clone, convert_to=convert_to, fired=fired
            )
            self._taps.append((module, site.io, tap))
        # With `stop`, the captures that have not been reached yet.
        self._waiting = {tap for _, _, tap in self._taps if not tap.edits} if stop else set()

    def __enter__(self) -> ActivationCache:
        if self._state != "new":
            raise RuntimeError("one intervene(...) serves one `with` block; call intervene again")
        self._state = "entered"
        keep_freed_memory()
        for module, side, tap in self._taps:
            _hooks.attach(module, side, tap)
        return self._cache

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        for module, side, tap in reversed(self._taps):
            _hooks.detach(module, side, tap)
        if error is None or error is self._end:
            self._check_reached()
            self._cache.seal()
        return error is self._end

    def _on_fired(self, tap: CaptureTap) -> None:
        self._waiting.discard(tap)
        if not self._waiting:
            raise self._end

    def _check_reached(self) -> None:
        for _, _, tap in self._taps:
            if not tap.reached:
                action = "edit" if tap.edits else "capture"
                raise RuntimeError(
                    f"the {action} at site '{tap.site}' was never reached: its module was called "
                    f"{tap.calls} times inside the `with` block"
                )


def _has_inplace_modules(model: nn.Module) -> bool:
    """Whether a module such as `nn.ReLU(inplace=True)` would overwrite what came before it."""
    # A walk over the raw dictionaries: `modules()` takes longer than the hooks of a small model.
    waiting = [model.__dict__]
    for own in waiting:
        if own.get("inplace") is True:
            return True
        if own["_modules"]:
            waiting += [child.__dict__ for child in own["_modules"].values() if child is not None]
    return False
