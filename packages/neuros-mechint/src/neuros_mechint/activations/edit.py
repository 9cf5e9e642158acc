"""Edits: functions of the tensor at a site. None changes its input in place.

Here are those that put another value in its place; those that change it are in `_changes`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from neuros_mechint.activations._changes import (
    Add,
    BandStop,
    Noise,
    ProjectOut,
    Scale,
    Splice,
)
from neuros_mechint.activations._editing import (
    Edit,
    EditContext,
    apply,
    fitted,
    per_row,
    with_context,
)

__all__ = [
    "Add",
    "BandStop",
    "Compose",
    "Edit",
    "EditContext",
    "Interpolate",
    "Leaf",
    "Mean",
    "Noise",
    "ProjectOut",
    "Replace",
    "Resample",
    "Scale",
    "Splice",
    "Zero",
]


@dataclass(frozen=True, eq=False)
class Replace:
    """Put another value in place of the activation.

    Args:
        value: Shape of the activation, or one that broadcasts to it (`(1, ...)` for all rows).

    Raises:
        ValueError: At the call, when shape or dtype do not fit.

    Examples:
        >>> from neuros_mechint.activations import run
        >>> run(torch.nn.Identity(), torch.zeros(2), edits={"": Replace(torch.ones(2))}).output
        tensor([1., 1.])
    """

    value: Tensor

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        """Return the edited activation."""
        # A copy, or a later in-place operation of the model would write into the caller's tensor.
        return fitted("value", self.value, value).clone()


@dataclass(frozen=True, eq=False)
class Zero:
    """Replace the activation by zeros.

    Examples:
        >>> from neuros_mechint.activations import run
        >>> run(torch.nn.Identity(), torch.ones(2), edits={"": Zero()}).output
        tensor([0., 0.])
    """

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        """Return the edited activation."""
        return torch.zeros_like(value)


@dataclass(frozen=True, eq=False)
class Mean:
    """Replace the activation by the mean of a reference set of activations.

    Args:
        reference: Activations of the same site, such as (n, ..., d).
        dims: Dimensions to average over; they stay as 1, so that the mean broadcasts.

    Examples:
        >>> from neuros_mechint.activations import run
        >>> edit = Mean(torch.tensor([[1.0, 4.0], [3.0, 0.0]]))
        >>> run(torch.nn.Identity(), torch.zeros(1, 2), edits={"": edit}).output
        tensor([[2., 2.]])
    """

    reference: Tensor
    dims: int | tuple[int, ...] = 0

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        """Return the edited activation."""
        mean = self.reference.mean(dim=self.dims, keepdim=True)
        return fitted("the mean of reference", mean, value).clone()


@dataclass(frozen=True, eq=False)
class Resample:
    """Replace every row by a row of a reference set, drawn without replacement.

    Args:
        reference: Activations of the same site, at least as many rows as the activation.
        generator: Source of the draw, on the CPU.

    Raises:
        ValueError: At the call, when the reference has fewer rows or another row shape.

    Examples:
        >>> from neuros_mechint.activations import run
        >>> edit = Resample(torch.tensor([[5.0], [5.0]]), torch.Generator().manual_seed(0))
        >>> run(torch.nn.Identity(), torch.zeros(2, 1), edits={"": edit}).output
        tensor([[5.],
                [5.]])
    """

    reference: Tensor
    generator: torch.Generator

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        """Return the edited activation."""
        n_rows = value.shape[0] if value.ndim else 0
        if self.reference.ndim == 0 or not 0 < n_rows <= self.reference.shape[0]:
            raise ValueError(
                f"reference needs at least the {n_rows} rows of the activation "
                f"{tuple(value.shape)}, got shape {tuple(self.reference.shape)}"
            )
        order = torch.randperm(self.reference.shape[0], generator=self.generator)
        rows = self.reference[order[:n_rows].to(self.reference.device)]
        return fitted("the rows of reference", rows, value)


@dataclass(frozen=True, eq=False)
class Interpolate:
    r"""Replace the activation by a point on a line, $x' = a + t (b - a)$; exact at 0 and 1.

    Args:
        a: Activation at t = 0.
        b: Activation at t = 1.
        t: One position, or one per row, shape (batch,).

    Examples:
        >>> from neuros_mechint.activations import run
        >>> edit = Interpolate(torch.zeros(2), torch.ones(2), 0.25)
        >>> run(torch.nn.Identity(), torch.ones(2), edits={"": edit}).output
        tensor([0.2500, 0.2500])
    """

    a: Tensor
    b: Tensor
    t: float | Tensor

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        """Return the edited activation."""
        a, b = fitted("a", self.a, value), fitted("b", self.b, value)
        return torch.lerp(a, b, per_row("t", self.t, value))


@dataclass(frozen=True, eq=False)
class Leaf:
    """Make the activation a leaf that collects its gradient, with the same numbers.

    Capture the same site with `detach=False` to get hold of the leaf.

    Raises:
        ValueError: At the call, in inference mode or for integers, where nothing can have a
            gradient.

    Examples:
        >>> from neuros_mechint.activations import intervene
        >>> net = torch.nn.Identity()
        >>> with intervene(net, {"": Leaf()}, capture=[""], detach=False) as cache:
        ...     net(torch.ones(2)).square().sum().backward()
        >>> cache[""].grad
        tensor([2., 2.])
    """

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        """Return the edited activation."""
        if torch.is_inference_mode_enabled():
            raise ValueError("Leaf needs gradients; leave torch.inference_mode()")
        if not (value.is_floating_point() or value.is_complex()):
            raise ValueError(f"Leaf needs a floating-point activation, got {value.dtype}")
        return value.detach().clone().requires_grad_()


class Compose:
    """Apply several edits one after the other.

    Args:
        *edits: Edits or functions of one tensor, first to last.

    Examples:
        >>> from neuros_mechint.activations import run
        >>> edit = Compose(Scale(3.0), lambda x: x + 1.0)
        >>> run(torch.nn.Identity(), torch.ones(2), edits={"": edit}).output
        tensor([4., 4.])
    """

    def __init__(self, *edits: Edit) -> None:
        self.edits = edits
        self._bound = [with_context(edit) for edit in edits]

    def __call__(self, value: Tensor, context: EditContext) -> Tensor:
        """Return the edited activation."""
        for edit in self._bound:
            value = apply(edit, value, context)
        return value
