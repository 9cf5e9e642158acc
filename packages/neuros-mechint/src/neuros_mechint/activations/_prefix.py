"""One unedited forward: its output, the values at the places to edit, and what can be replayed."""

import operator
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from neuros_mechint.activations._container import Path, get_leaf, leaves, map_leaves
from neuros_mechint.activations._hooks import Side, has_foreign_hooks, watch
from neuros_mechint.activations._inputs import Arguments
from neuros_mechint.activations._state import Snapshot
from neuros_mechint.activations._taps import find_tensor
from neuros_mechint.activations.cache import version_of
from neuros_mechint.activations.site import Site, is_compiled

__all__ = ["Place", "Recorded", "Reference", "record"]


@dataclass(frozen=True)
class Place:
    """One side of one module, with the member that a site selects there.

    Attributes:
        module: The module.
        site: The site without path, call and index.
    """

    module: nn.Module
    site: Site

    @classmethod
    def of(cls, module: nn.Module, site: Site) -> "Place":
        """Return the place of a site."""
        return cls(module, Site("", io=site.io, key=site.key))

    @property
    def side(self) -> Side:
        """Side of the module."""
        return self.site.io

    def find(self, holder: Any) -> Path:
        """Path of the place's tensor in what passes through its side of the module."""
        return find_tensor(self.module, self.site, holder)


@dataclass
class _Call:
    """One running call of a module."""

    start: int
    tensors: list[tuple[Path, Tensor, int]]
    kept: list[nn.Module] = field(default_factory=list)
    holds_place: bool = False


@dataclass(frozen=True)
class Recorded:
    """One call of a module that can be replayed.

    Attributes:
        start: When it began.
        end: When it ended.
        lengths: Length of the first dimension of every tensor in `(args, kwargs)`.
        output: What it returned.
    """

    start: int
    end: int
    lengths: Mapping[Path, int]
    output: Any


@dataclass
class Reference:
    """What one unedited forward told.

    Attributes:
        output: Output of the model.
        values: Per place, a copy of its tensor at every call.
        moments: Per place, when it was reached first.
        calls: Modules that can be replayed, with their call.
    """

    output: Any = None
    values: dict[Place, list[Tensor]] = field(default_factory=dict)
    moments: dict[Place, int] = field(default_factory=dict)
    calls: dict[nn.Module, Recorded] = field(default_factory=dict)

    def moment(self, places: Iterable[Place]) -> int:
        """When the first of some places is reached; 0 when nothing can be replayed."""
        return min((self.moments.get(place, 0) for place in places), default=0)

    def active(self, firsts: Sequence[int], places: Collection[Place]) -> dict[nn.Module, int]:
        """How many sets are edited before a module ends, for the outermost with fewer than all.

        Args:
            firsts: When the first place of each set is reached, ascending.
            places: All places of the sets; a module with one of them inside is left to its parts.
        """
        edited = [self.moments.get(place, 0) for place in places]
        chosen: dict[nn.Module, int] = {}
        covered = -1
        for module, call in self.in_order:
            if call.end <= covered or call.end > firsts[-1]:
                continue
            if not any(call.start < moment < call.end for moment in edited):
                chosen[module] = bisect_left(firsts, call.end)
                covered = call.end
        return chosen

    @cached_property
    def in_order(self) -> list[tuple[nn.Module, Recorded]]:
        """Modules that can be replayed in the order of their calls."""
        return sorted(self.calls.items(), key=lambda item: item[1].start)


def record(
    model: nn.Module,
    arguments: Arguments,
    places: Collection[Place],
    *,
    reuse: bool,
    snapshot: Snapshot,
) -> Reference:
    """Run one unedited forward and record it.

    Without `reuse`, or where something would make a replay differ from a call, no module is
    recorded for replay: in train mode, under hooks or compiled code, when a place is reached more
    than once, when the forward changes buffers or attributes.
    """
    modules = [*model.modules()]
    reuse = reuse and not model.training
    reuse = reuse and not any(has_foreign_hooks(m) or is_compiled(m) for m in modules)
    before = _Attributes(modules if reuse else ())
    recorder = _Recorder(places, replay=reuse)
    watched = _around(model, places) if reuse else dict.fromkeys(p.module for p in places)
    with watch(watched, enter=recorder.enter, leave=recorder.leave):
        recorder.found.output = model(*arguments[0], **arguments[1])
    found = recorder.found
    repeats = any(len(calls) > 1 for calls in found.values.values())
    if not reuse or repeats or snapshot.changed() or before.changed():
        return Reference(output=found.output, values=found.values)
    return found


class _Recorder:
    """Fills a `Reference` from the calls of the watched modules."""

    def __init__(self, places: Collection[Place], *, replay: bool) -> None:
        self.found = Reference(values={place: [] for place in places})
        self.places: dict[nn.Module, list[Place]] = {}
        for place in places:
            self.places.setdefault(place.module, []).append(place)
        self.replay = replay
        self.clock = 0
        self.open: list[_Call] = [_Call(0, [])]
        self.seen: set[nn.Module] = set()

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        holder = (args, kwargs)
        self.clock += 1
        self._visit(module, "input", holder)
        found = [(path, leaf) for path, leaf in leaves(holder) if isinstance(leaf, Tensor)]
        self.open.append(_Call(self.clock, [(path, t, _version(t)) for path, t in found]))

    def leave(self, module: nn.Module, output: Any) -> None:
        call = self.open.pop()
        self.clock += 1
        # Below a call without a place inside, nothing has to be kept: it is replayed as a whole.
        kept = call.kept
        if self._replayable(module, output, call):
            lengths = {path: len(t) for path, t, _ in call.tensors if t.ndim}
            # A copy, as a later in-place operation would change what is to be replayed.
            kept_output = map_leaves(_copied, output)
            self.found.calls[module] = Recorded(call.start, self.clock, lengths, kept_output)
            if not call.holds_place:
                self._forget(kept)
                kept = []
            kept = [*kept, module]
        self.open[-1].kept += kept
        self.open[-1].holds_place |= call.holds_place
        self._visit(module, "output", output)

    def _visit(self, module: nn.Module, side: Side, holder: Any) -> None:
        for place in self.places.get(module, ()):
            if place.side == side:
                value = get_leaf(holder, place.find(holder)).detach().clone()
                self.found.values[place].append(value)
                self.found.moments.setdefault(place, self.clock)
                self.open[-1].holds_place = True

    def _replayable(self, module: nn.Module, output: Any, call: _Call) -> bool:
        """Whether returning a copy of the output is the same as calling the module."""
        if not self.replay:
            return False
        if module in self.seen:
            self._forget([module])
            return False
        self.seen.add(module)
        untouched = all(_version(tensor) == version for _, tensor, version in call.tensors)
        return untouched and all(_is_plain(leaf) for _, leaf in leaves(output))

    def _forget(self, modules: Iterable[nn.Module]) -> None:
        for module in modules:
            self.found.calls.pop(module, None)


def _around(model: nn.Module, places: Iterable[Place]) -> dict[nn.Module, None]:
    """Modules with an edited place, all that hold one, and the children of those.

    Where one of them ends before an edit it is replayed as a whole: what is deeper inside a module
    without a place never has to be watched.
    """
    edited = {place.module for place in places}
    chosen: dict[nn.Module, None] = {}

    def walk(module: nn.Module) -> bool:
        holds = [walk(child) for child in module.children()]
        if not any(holds):
            return module in edited
        chosen.update(dict.fromkeys([module, *module.children()]))
        return True

    if walk(model):
        chosen[model] = None
    return chosen


class _Attributes:
    """Everything that hangs on the modules; a forward that keeps state changes it.

    The objects are held, so that another one cannot come to lie where a lost one was.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._held = [(module, [*vars(module)], [*vars(module).values()]) for module in modules]

    def changed(self) -> bool:
        """Whether a module has another attribute, or another object in one."""
        return any(
            len(vars(module)) != len(names)
            or not all(map(operator.is_, vars(module).values(), values))
            or not all(map(operator.eq, vars(module), names))
            for module, names, values in self._held
        )


def _version(tensor: Tensor) -> int:
    # Inference tensors do not count their in-place changes.
    return 0 if tensor.is_inference() else version_of(tensor)


def _copied(_path: Path, leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _is_plain(leaf: object) -> bool:
    return leaf is None or isinstance(leaf, (Tensor, bool, int, float, str))
