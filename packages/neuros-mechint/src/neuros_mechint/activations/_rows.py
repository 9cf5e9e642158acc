"""Copies of the input side by side in one batch: where each lies, how tensors grow with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Layout", "batch_axis", "same_numbers", "tile"]


@dataclass(frozen=True)
class Layout:
    """Places of some sets of edits around one unedited copy of the input.

    The set that is edited first lies nearest to the unedited copy, the next one on its other side,
    and so on. Whatever sets are edited so far, they fill a window with the unedited copy in its
    middle, where a recurrence over rows in either direction reaches it.

    Attributes:
        n_sets: Number of sets.
        n_rows: Rows of the input.
    """

    n_sets: int
    n_rows: int

    @property
    def copies(self) -> int:
        """Copies of the input."""
        return self.n_sets + 1

    @property
    def control(self) -> int:
        """Copy that stays unedited."""
        return (self.n_sets + 1) // 2

    def copy(self, position: int) -> int:
        """Copy of a set, from its position in the order of the first edits."""
        step = position // 2 + 1
        return self.control - step if position % 2 == 0 else self.control + step

    def window(self, n_active: int) -> "Window":
        """Copies of the sets edited first; of two at least, or one side would see nothing."""
        n_active = min(self.n_sets, max(2, n_active))
        return Window(self, self.control - (n_active + 1) // 2, n_active + 1)


@dataclass(frozen=True)
class Window:
    """Some neighbouring copies of a layout."""

    layout: Layout
    first: int
    copies: int

    def cut(self, value: Tensor) -> Tensor:
        """Rows of the window, of a tensor with all rows in dimension 0."""
        n_rows = self.layout.n_rows
        return value.narrow(0, self.first * n_rows, self.copies * n_rows)

    def fill(self, inside: Tensor, one: Tensor) -> Tensor:
        """Put the rows of one unedited copy on both sides of those of the window.

        Raises:
            ValueError: When the rows of the window are not that many copies.
        """
        axis = batch_axis(one.shape, inside.shape, self.copies)
        if axis is None:
            return inside
        after = self.layout.copies - self.first - self.copies
        parts = [one] * self.first + [inside] + [one] * after
        return torch.cat(parts, axis)


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
