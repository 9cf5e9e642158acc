"""One unedited forward: its output, the values at the places to edit, and what can be replayed."""

import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuros_mechint.activations._container import Path, get_leaf, leaves, map_leaves
from neuros_mechint.activations._hooks import Side, has_foreign_hooks, watch
from neuros_mechint.activations._inputs import Arguments
from neuros_mechint.activations._state import Snapshot
from neuros_mechint.activations._taps import find_tensor
from neuros_mechint.activations.cache import version_of
from neuros_mechint.activations.site import Site, is_compiled

__all__ = ["Place", "Reference", "batch_axis", "record", "replayed", "same_numbers", "tile"]


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
    versions: list[tuple[Tensor, int]]
    kept: list[nn.Module] = field(default_factory=list)
    holds_place: bool = False


@dataclass
class Reference:
    """What one unedited forward told.

    Attributes:
        output: Output of the model.
        shapes: Per place, the shape of its tensor at every call.
        moments: Per place, when it was reached first.
        spans: Modules that can be replayed, with start and end of their call.
        outputs: Their outputs.
    """

    output: Any = None
    shapes: dict[Place, list[torch.Size]] = field(default_factory=dict)
    moments: dict[Place, int] = field(default_factory=dict)
    spans: dict[nn.Module, tuple[int, int]] = field(default_factory=dict)
    outputs: dict[nn.Module, Any] = field(default_factory=dict)

    def moment(self, places: Iterable[Place]) -> int:
        """When the first of some places is reached; 0 when nothing can be replayed."""
        return min((self.moments.get(place, 0) for place in places), default=0)

    def prefix(self, moment: int) -> dict[nn.Module, Any]:
        """Outputs of the outermost modules that are complete at a moment."""
        chosen: dict[nn.Module, Any] = {}
        covered = -1
        for module, (_, end) in sorted(self.spans.items(), key=lambda item: item[1][0]):
            if covered < end <= moment:
                chosen[module] = self.outputs[module]
                covered = end
        return chosen


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
    repeats = any(len(calls) > 1 for calls in found.shapes.values())
    if not reuse or repeats or snapshot.changed() or before.changed():
        return Reference(output=found.output, shapes=found.shapes)
    return found


class _Recorder:
    """Fills a `Reference` from the calls of the watched modules."""

    def __init__(self, places: Collection[Place], *, replay: bool) -> None:
        self.found = Reference(shapes={place: [] for place in places})
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
        tensors = [leaf for _, leaf in leaves(holder) if isinstance(leaf, Tensor)]
        counted = [t for t in tensors if not t.is_inference()]
        self.open.append(_Call(self.clock, [(t, version_of(t)) for t in counted]))

    def leave(self, module: nn.Module, output: Any) -> None:
        call = self.open.pop()
        self.clock += 1
        # Below a call without a place inside, nothing has to be kept: it is replayed as a whole.
        kept = call.kept
        if self._replayable(module, output, call):
            self.found.spans[module] = (call.start, self.clock)
            # A copy, as a later in-place operation would change what is to be replayed.
            self.found.outputs[module] = map_leaves(_copied, output)
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
                self.found.shapes[place].append(get_leaf(holder, place.find(holder)).shape)
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
        untouched = all(version_of(tensor) == version for tensor, version in call.versions)
        return untouched and all(_is_plain(leaf) for _, leaf in leaves(output))

    def _forget(self, modules: Iterable[nn.Module]) -> None:
        for module in modules:
            self.found.spans.pop(module, None)
            self.found.outputs.pop(module, None)


@contextmanager
def replayed(outputs: Mapping[nn.Module, Any], n_rows: int, copies: int) -> Iterator[None]:
    """Let modules return recorded outputs, for several copies of the input, without a call.

    A forward that another tool put on the instance comes back as it was.
    """
    absent = object()
    found = {module: vars(module).get("forward", absent) for module in outputs}
    try:
        for module, output in outputs.items():
            tiled = map_leaves(partial(_tile_leaf, n_rows, copies), output)
            vars(module)["forward"] = partial(_constant, tiled)
        yield
    finally:
        for module, forward in found.items():
            if forward is absent:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = forward


def tile(value: Tensor, axis: int, copies: int) -> Tensor:
    """Repeat a tensor along its batch axis, copy after copy."""
    return value.repeat([copies if dim == axis else 1 for dim in range(value.ndim)])


def batch_axis(one: Sequence[int], many: Sequence[int], copies: int) -> int | None:
    """Return the axis that became `copies` times as long, None when no axis changed.

    Raises:
        ValueError: When the shapes differ in any other way.
    """
    if tuple(one) == tuple(many):
        return None
    changed = [axis for axis, (a, b) in enumerate(zip(one, many, strict=False)) if a != b]
    if len(one) != len(many) or [many[axis] for axis in changed] != [copies * one[changed[0]]]:
        raise ValueError(f"shape {tuple(one)} became {tuple(many)} for {copies} copies")
    return changed[0]


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree up to the rounding that another batch size brings."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = a.detach(), b.detach()
    if not a.is_floating_point() or not a.numel():
        return torch.equal(a, b)
    # Sums in another order differ by a few eps; a row that saw another row differs far more.
    slack = float(torch.finfo(a.dtype).eps ** 0.5)
    if float((a - b).abs().max()) <= slack * float(a.abs().max()):
        return True
    # With NaN or infinity among the numbers, which compare equal only to themselves.
    finite = a[a.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(a, b, rtol=slack, atol=slack * scale, equal_nan=True)


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


def _copied(_path: Path, leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _is_plain(leaf: object) -> bool:
    return leaf is None or isinstance(leaf, (Tensor, bool, int, float, str))


def _tile_leaf(n_rows: int, copies: int, _path: Path, leaf: Any) -> Any:
    # Dimension 0 is a guess here; the unedited copy in every batch tells when it was wrong.
    if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == n_rows:
        return tile(leaf, 0, copies)
    return leaf


def _constant(output: Any, *_args: Any, **_kwargs: Any) -> Any:
    return output
