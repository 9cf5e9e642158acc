"""Many edit sets in few forwards: each set gets its own rows of a batch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuros_mechint.activations import _hooks
from neuros_mechint.activations._container import Path, leaves, map_leaves
from neuros_mechint.activations._editing import Edit, with_context
from neuros_mechint.activations._heap import keep_freed_memory
from neuros_mechint.activations._inputs import Arguments, call_arguments, count_rows, tile_rows
from neuros_mechint.activations._prefix import Place, record
from neuros_mechint.activations._replay import replayed
from neuros_mechint.activations._rows import Layout, batch_axis, same_numbers
from neuros_mechint.activations._stacked import StackedTap
from neuros_mechint.activations._state import preserved
from neuros_mechint.activations.intervene import intervene
from neuros_mechint.activations.site import Site, SiteLike, as_site, find_module

__all__ = ["run_batched"]


def run_batched(
    model: nn.Module,
    inputs: Any,
    edit_sets: Sequence[Mapping[SiteLike, Edit]],
    *,
    batch_size: int = 64,
    reuse_prefix: bool = True,
) -> list[Any]:
    """Run the model once per edit set, with many sets in one forward.

    The result is that of `run(model, inputs, edits=edits).output` for each set, up to the rounding
    of another batch size. An unedited forward comes first, and every batch holds one unedited copy
    of the input: its rows must give the output of that forward. Sets for which they do not, because
    rows influence each other, the batch is not dimension 0 or an edited tensor does not carry the
    batch, are run one by one.

    With `reuse_prefix`, modules that are complete before the first edited site are not called
    again, and later ones are called for the sets that are edited before they end and the copy
    alone. That is left out by itself in train mode, when a forward changes a buffer or an attribute
    of a module, when an edited site is reached more than once, when the model carries hooks or
    compiled modules, and when the unedited copy disagrees.

    Args:
        model: Any module.
        inputs: A tuple of positional arguments, a mapping whose every key names a parameter of the
            forward, or else the one argument.
        edit_sets: One mapping from sites to edits per run; an edit sees the rows of its set only.
        batch_size: Most rows in one forward, the unedited copy included (at least one set runs).
        reuse_prefix: Whether to reuse modules that come before every edit.

    Returns:
        One output per set, in order. A member of the output that is neither a tensor nor a plain
        value (a key-value cache) cannot be divided into rows and is None.

    Raises:
        KeyError: When a path names no module.
        RuntimeError: When a site was not reached.
        ValueError: When `batch_size` is not positive or an edit returns another shape.

    Examples:
        >>> net = nn.Sequential(nn.Identity(), nn.Identity())
        >>> sets = [{"0": lambda x, k=k: k * x} for k in range(3)]
        >>> [out.item() for out in run_batched(net, torch.ones(1, 1), sets)]
        [0.0, 1.0, 2.0]
    """
    outputs: list[Any] = [None] * len(edit_sets)
    pieces = stream_batched(
        model, inputs, edit_sets, batch_size=batch_size, reuse_prefix=reuse_prefix
    )
    for k, output in pieces:
        outputs[k] = output
    return outputs


def stream_batched(
    model: nn.Module,
    inputs: Any,
    edit_sets: Sequence[Mapping[SiteLike, Edit]],
    *,
    batch_size: int,
    reuse_prefix: bool = True,
    measure: Callable[[Any], Any] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Yield `(k, output)` batch by batch, so that not all outputs are held at once.

    With `measure`, yield `(k, measure(output))`. A measure that gives one number per row is called
    once per batch instead of once per set, if sets of the first batch show that this is the same.

    Raises:
        ValueError: When `batch_size` is not positive.
    """
    measure = measure or _whole
    if batch_size < 1:
        raise ValueError(f"batch_size needs at least 1 row, got {batch_size}")
    arguments = call_arguments(model, inputs)
    places: dict[Any, Place] = {}
    sets = [_EditSet.prepare(model, k, edits, places) for k, edits in enumerate(edit_sets)]
    per_batch = batch_size // max(1, count_rows(arguments)) - 1 if len(sets) > 1 else 1
    if per_batch < 2:
        for one in sets:
            k, output = one.run_alone(model, arguments)
            yield k, measure(output)
        return
    sweep = _Sweep(model, arguments, sets, reuse=reuse_prefix, measure=measure)
    for one in sets:
        if not one.found:
            yield one.k, measure(map_leaves(_plain_or_none, sweep.reference.output))
    for batch in sweep.batches([one for one in sets if one.found], per_batch):
        yield from sweep.run(batch)


@dataclass(frozen=True, eq=False)
class _EditSet:
    """One edit set with its sites looked up."""

    k: int
    edits: Mapping[SiteLike, Edit]
    found: list[tuple[Place, Site, Any]]

    @classmethod
    def prepare(
        cls, model: nn.Module, k: int, edits: Mapping[SiteLike, Edit], places: dict[Any, Place]
    ) -> "_EditSet":
        found = []
        for like, edit in edits.items():
            site = as_site(model, like)
            side = (site.path, site.io, site.key)
            if side not in places:
                places[side] = Place.of(find_module(model, site), site)
            found.append((places[side], site, with_context(edit)))
        return cls(k, edits, found)

    def run_alone(self, model: nn.Module, arguments: Arguments) -> tuple[int, Any]:
        args, kwargs = arguments
        with preserved(model), intervene(model, self.edits):
            return self.k, map_leaves(_plain_or_none, model(*args, **kwargs))


class _NotStackableError(Exception):
    """Sets of a batch turn out not to be independent rows."""


class _Sweep:
    """All edit sets on one model and input."""

    def __init__(
        self,
        model: nn.Module,
        arguments: Arguments,
        sets: Sequence[_EditSet],
        *,
        reuse: bool,
        measure: Callable[[Any], Any],
    ) -> None:
        self.model, self.arguments = model, arguments
        self.measure = measure
        self.unedited: Any = None
        self.by_rows: bool | None = False if measure is _whole else None
        self.n_rows = count_rows(arguments)
        places = dict.fromkeys(place for one in sets for place, _, _ in one.found)
        keep_freed_memory()
        with preserved(model) as self.snapshot:
            self.reference = record(model, arguments, places, reuse=reuse, snapshot=self.snapshot)
        self.firsts = {one: self.reference.moment(p for p, _, _ in one.found) for one in sets}

    def batches(self, sets: Sequence[_EditSet], per_batch: int) -> Iterator[list[_EditSet]]:
        """Divide sets, in the order of their first edit, into batches of nearly one size."""
        ordered = sorted(sets, key=self.firsts.__getitem__)
        n_batches = -(-len(sets) // per_batch)
        for k in range(n_batches):
            yield ordered[k * len(sets) // n_batches : (k + 1) * len(sets) // n_batches]

    def run(self, batch: Sequence[_EditSet]) -> Iterator[tuple[int, Any]]:
        """Run one batch; with modules called in part, with all of them whole, or one by one."""
        # Of two copies only one would see what a recurrence over rows hands on.
        if len(batch) > 1:
            places = {place for one in batch for place, _, _ in one.found}
            counts = self.reference.active([self.firsts[one] for one in batch], places)
            layout = Layout(len(batch), self.n_rows)
            for partly in (counts, {}) if counts else ({},):
                try:
                    output = self._forward(batch, layout, partly)
                    axes = self._axes(output, layout)
                except _NotStackableError:
                    continue
                yield from self._measured(batch, output, axes, layout)
                return
        for one in batch:
            k, output = one.run_alone(self.model, self.arguments)
            yield k, self.measure(output)

    def _measured(
        self,
        batch: Sequence[_EditSet],
        output: Any,
        axes: Mapping[Path, int | None],
        layout: Layout,
    ) -> Iterator[tuple[int, Any]]:
        """Measure the sets of one batch, at once where the measure goes by rows."""
        together = None if self.by_rows is False else self._by_rows(output, axes, layout)

        def alone(copy: int) -> Any:
            return self.measure(map_leaves(_Rows(axes, copy, layout.copies), output))

        copies = [layout.copy(position) for position in range(len(batch))]
        if self.by_rows is None and together is not None:
            # Rows that see each other differ everywhere, so a few sets over the batch tell.
            self.by_rows = all(
                _equal(alone(copy), together[copy], together)
                for copy in copies[:: -(-len(copies) // 4)]
            )
        if together is None or not self.by_rows:
            self.by_rows = False
            yield from ((one.k, alone(copy)) for one, copy in zip(batch, copies, strict=True))
            return
        yield from ((one.k, together[copy]) for one, copy in zip(batch, copies, strict=True))

    def _by_rows(
        self, output: Any, axes: Mapping[Path, int | None], layout: Layout
    ) -> Tensor | None:
        """Measure all copies at once; None when that gives anything but one number per row."""
        # Every member needs its rows first, or the measure of a part is not a part of the measure.
        if any(axis != 0 for axis in axes.values()):
            return None
        # Labels of one copy do not fit the rows of many, and a measure may raise what it likes.
        with suppress(Exception):
            values = self.measure(map_leaves(_plain_or_none, output))
            if isinstance(values, Tensor) and values.shape == (layout.copies * self.n_rows,):
                rows = values.reshape(layout.copies, self.n_rows)
                control = rows[layout.control]
                return rows if same_numbers(control, self._measured_reference()) else None
        return None

    def _measured_reference(self) -> Any:
        if self.unedited is None:
            self.unedited = self.measure(map_leaves(_plain_or_none, self.reference.output))
        return self.unedited

    def _forward(
        self, batch: Sequence[_EditSet], layout: Layout, partly: Mapping[nn.Module, int]
    ) -> Any:
        """Run one stacked forward, with some modules called on a part of the rows."""
        args, kwargs = tile_rows(self.arguments, self.n_rows, layout.copies)
        taps = self._taps(batch, layout)
        with ExitStack() as stack:
            stack.callback(self.snapshot.restore)
            stack.enter_context(replayed(partly, self.reference.calls, layout))
            for place, tap in taps.items():
                _hooks.attach(place.module, place.side, tap)
                stack.callback(_hooks.detach, place.module, place.side, tap)
            try:
                output = self.model(*args, **kwargs)
            # Whether the stacking or an edit is to blame, the run of the set alone will tell.
            except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise _NotStackableError from error
        if not all(tap.reached for tap in taps.values()):
            raise _NotStackableError
        return output

    def _taps(self, batch: Sequence[_EditSet], layout: Layout) -> dict[Place, StackedTap]:
        taps: dict[Place, StackedTap] = {}
        for position, one in enumerate(batch):
            for place, site, edit in one.found:
                if place not in taps:
                    taps[place] = StackedTap(place, self.reference.values[place], layout)
                taps[place].add(layout.copy(position), site, edit)
        return taps

    def _axes(self, output: Any, layout: Layout) -> dict[Path, int | None]:
        """Find the batch axis of every tensor of the output, and check the unedited copy.

        Raises:
            _NotStackableError: When a tensor cannot be divided, or the unedited copy differs.
        """
        stacked, single = leaves(output), leaves(self.reference.output)
        if [path for path, _ in stacked] != [path for path, _ in single]:
            raise _NotStackableError
        axes: dict[Path, int | None] = {}
        for (path, many), (_, one) in zip(stacked, single, strict=True):
            if isinstance(many, Tensor):
                axes[path] = _checked_axis(one, many, layout)
        return axes


def _checked_axis(one: Tensor, many: Tensor, layout: Layout) -> int | None:
    try:
        axis = batch_axis(one.shape, many.shape, layout.copies)
    except ValueError as error:
        raise _NotStackableError from error
    if axis is None:
        # A parameter or an input handed on belongs to every row; a mean over rows does not.
        unedited = many.data_ptr() == one.data_ptr()
    else:
        size = one.shape[axis]
        unedited = same_numbers(one, many.narrow(axis, layout.control * size, size))
    if not unedited:
        raise _NotStackableError
    return axis


@dataclass(frozen=True)
class _Rows:
    """Takes the rows of one copy out of a leaf of the stacked output."""

    axes: Mapping[Path, int | None]
    copy: int
    copies: int

    def __call__(self, path: Path, leaf: Any) -> Any:
        axis = self.axes.get(path)
        if axis is None:
            return _plain_or_none(path, leaf)
        size = leaf.shape[axis] // self.copies
        return leaf.narrow(axis, self.copy * size, size)


def _equal(a: Tensor, b: Tensor, scale: Tensor) -> bool:
    """Whether two measures of the same output differ by no more than the order of a sum."""
    largest = float(scale.detach().abs().nan_to_num(0.0, 0.0, 0.0).max())
    return a.shape == b.shape and torch.allclose(
        a, b, rtol=1e-6, atol=1e-6 * largest, equal_nan=True
    )


def _whole(output: Any) -> Any:
    return output


def _plain_or_none(_path: Path, leaf: Any) -> Any:
    return leaf if isinstance(leaf, (Tensor, bool, int, float, str)) else None
