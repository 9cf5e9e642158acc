"""One hook that edits the rows of many sets at one place."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from neuros_mechint.activations._container import get_leaf, put_leaf
from neuros_mechint.activations._editing import ContextEdit, EditContext, apply
from neuros_mechint.activations._prefix import Place
from neuros_mechint.activations._rows import Layout, batch_axis, same_numbers
from neuros_mechint.activations._taps import Turns, indexed
from neuros_mechint.activations._transplant import Transplant
from neuros_mechint.activations.site import Site

__all__ = ["StackedTap"]


class StackedTap:
    """Edits of many sets at one place; each gets the rows of its set.

    Args:
        place: Where it acts.
        unedited: The tensor at every call of the unedited forward.
        layout: Where the copies of the input lie.
    """

    edits = True

    def __init__(self, place: Place, unedited: Sequence[Tensor], layout: Layout) -> None:
        self.place, self.unedited, self.layout = place, unedited, layout
        self.calls = 0
        self.rows: list[tuple[int, Site, ContextEdit, Turns]] = []

    def add(self, copy: int, site: Site, edit: ContextEdit) -> None:
        """Give one copy an edit."""
        self.rows.append((copy, site, edit, Turns(site)))

    @property
    def reached(self) -> bool:
        """Whether every edit acted, in as many calls as the unedited forward made."""
        return self.calls == len(self.unedited) and all(turns.hits for *_, turns in self.rows)

    def __call__(self, module: nn.Module, holder: Any) -> Any:
        call, self.calls = self.calls, self.calls + 1
        path = self.place.find(holder)
        value: Tensor = get_leaf(holder, path)
        axis = self._checked_axis(value, self.unedited[call])
        size = value.shape[axis] // self.layout.copies
        changed = value.clone()
        for copy, site, edit, turns in self.rows:
            if turns.take() is None:
                continue
            rows = changed.narrow(axis, copy * size, size)
            if isinstance(edit, Transplant) and site.index is None:
                edit.write(rows, EditContext(site, module, call))
                continue
            part = rows if site.index is None else indexed(site, rows)
            # The edit gets a copy: what it returns is written into the memory it read.
            result = apply(edit, part.clone(), EditContext(site, module, call))
            rows[... if site.index is None else site.index] = result
        return put_leaf(holder, path, changed)

    def _checked_axis(self, value: Tensor, one: Tensor) -> int:
        """Axis of the batch, where the rows of the unedited copy lie together."""
        axis = batch_axis(one.shape, value.shape, self.layout.copies)
        if axis is None:
            raise ValueError("the edited tensor does not carry the batch")
        size = one.shape[axis]
        # Where batch and time share a dimension, rows that lie together belong to many copies.
        if not same_numbers(one, value.narrow(axis, self.layout.control * size, size)):
            raise ValueError("the unedited copy does not hold what it holds alone")
        return axis
