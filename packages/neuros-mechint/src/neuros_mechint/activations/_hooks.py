"""The only place of the package where hooks are put on modules.

All taps on one side of one module share one hook, a `_Station`. That lets a capture see the value
after every edit at its site, also an edit that an inner context installed later.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, Protocol, runtime_checkable

from torch import nn
from torch.utils.hooks import RemovableHandle

__all__ = ["Tap", "attach", "detach", "has_foreign_hooks", "watch"]

Side = Literal["input", "output"]


@runtime_checkable
class Tap(Protocol):
    """Something that reads or changes what passes through one side of a module."""

    edits: bool

    def __call__(self, module: nn.Module, holder: Any) -> Any:
        """Return the holder (an output, or `(args, kwargs)`), changed where the tap edits."""


class _Station:
    """Taps on one side of a module in the order of their application: edits, then captures."""

    __slots__ = ("handle", "taps")

    def __init__(self, module: nn.Module, side: Side, tap: Tap) -> None:
        self.taps: list[Tap] = [tap]
        self.handle: RemovableHandle = (
            module.register_forward_hook(self.on_output)
            if side == "output"
            else module.register_forward_pre_hook(self.on_input, with_kwargs=True)
        )

    def add(self, tap: Tap) -> None:
        n_edits = sum(other.edits for other in self.taps)
        self.taps.insert(n_edits if tap.edits else len(self.taps), tap)

    def on_output(self, module: nn.Module, _args: Any, output: Any) -> Any:
        for tap in self.taps:
            output = tap(module, output)
        return output

    def on_input(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        holder = (args, kwargs)
        for tap in self.taps:
            holder = tap(module, holder)
        return holder


# Attaching and detaching are most of what a capture costs: no object and no call too many.
_STATION = {"input": "_neuros_mechint_input", "output": "_neuros_mechint_output"}


def attach(module: nn.Module, side: Side, tap: Tap) -> None:
    """Put a tap on one side of a module."""
    own = module.__dict__
    station = own.get(_STATION[side])
    if station is None:
        own[_STATION[side]] = _Station(module, side, tap)
    else:
        station.add(tap)


def detach(module: nn.Module, side: Side, tap: Tap) -> None:
    """Take a tap off; the last one takes the hook and the bookkeeping with it."""
    own = module.__dict__
    station = own[_STATION[side]]
    station.taps.remove(tap)
    if not station.taps:
        station.handle.remove()
        del own[_STATION[side]]


def has_foreign_hooks(module: nn.Module) -> bool:
    """Whether any hook is on the module at this moment."""
    own = vars(module)
    return bool(own["_forward_hooks"] or own["_forward_pre_hooks"])


@contextmanager
def watch(
    modules: Iterable[nn.Module],
    *,
    enter: Callable[[nn.Module, Any, Any], None],
    leave: Callable[[nn.Module, Any], None],
) -> Iterator[None]:
    """Call `enter(module, args, kwargs)` and `leave(module, output)` around every module call."""

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        enter(module, args, kwargs)

    def after(module: nn.Module, _args: Any, output: Any) -> None:
        leave(module, output)

    with ExitStack() as stack:
        for module in modules:
            first = module.register_forward_pre_hook(before, with_kwargs=True)
            stack.callback(first.remove)
            stack.callback(module.register_forward_hook(after).remove)
        yield
