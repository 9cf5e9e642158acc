"""Integrated gradients of a line to a given gap, and the nodes that reach it."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.attribution._integrate import integrate_adaptively, sum_gradients
from neuros_mechint.attribution._line import Line
from neuros_mechint.attribution._quadrature import gauss_legendre

__all__ = ["Integral", "gap_of", "integrate"]

# A smooth model is often exact to single precision with this many.
_FIRST_NODES = 8


class Integral(NamedTuple):
    """Attributions and the rule that they were computed with.

    Attributes:
        parts: Attributions in the shape of the line's ends.
        steps: Points per row at which the model was run.
        t: Positions of the nodes, one column for all rows or one per row.
        weights: Their weights; 0 where a node belongs to other rows.
    """

    parts: tuple[Tensor, ...]
    steps: int
    t: Float[Tensor, "copies column"]
    weights: Float[Tensor, "copies column"]


def gap_of(
    line: Line, parts: Sequence[Tensor], ends: Float[Tensor, "copies value"]
) -> Float[Tensor, "value"]:
    """Sum of the attributions minus the change of the target."""
    return line.per_row(parts, ends) - (ends[1] - ends[0])


def integrate(
    line: Line,
    ends: Float[Tensor, "copies value"],
    *,
    steps: int,
    tol: float | None,
    max_steps: int,
) -> Integral:
    """Integrate with fixed nodes, or with more and more of them until the gap is below `tol`.

    Raises:
        ValueError: When `tol` is not positive or `steps` below 1.

    Warns:
        RuntimeWarning: When `max_steps` ended the refinement above `tol`.
    """
    if tol is not None and not tol > 0:
        raise ValueError(f"tol needs a positive number, got {tol}")
    n = used = steps if tol is None else min(_FIRST_NODES, steps)
    parts = line.values(sum_gradients(line, n))
    rows = _above(line, parts, ends, tol)
    while n < steps and bool(rows.any()):
        n = min(2 * n, steps)
        used += n
        parts = line.values(sum_gradients(line, n))
        rows = _above(line, parts, ends, tol)
    t, weights = (whole[:, None] for whole in gauss_legendre(n, device=rows.device))
    if tol is None or not rows.any():
        return Integral(parts, used, t, weights)
    finer = integrate_adaptively(line, rows, tol, max_steps - used)
    used += finer.steps
    parts = tuple(
        torch.where(_along_batch(line, rows, old, axis), new, old)
        for old, new, axis in zip(parts, line.values(finer.gradients), line.axes, strict=True)
    )
    gap = gap_of(line, parts, ends).abs().max().item()
    if not gap <= tol:
        warnings.warn(
            f"the gap of {gap:.3g} is above tol={tol:.3g} after {used} points per row; raise "
            f"max_steps={max_steps}, use float64, or accept a larger tol",
            RuntimeWarning,
            stacklevel=3,
        )
    # Rows that were accurate keep the first nodes, the others have theirs.
    t = torch.cat([t.expand(-1, len(rows)), finer.t])
    return Integral(parts, used, t, torch.cat([weights * ~rows, finer.weights]))


def _above(line: Line, parts: Sequence[Tensor], ends: Tensor, tol: float | None) -> Tensor:
    gap = gap_of(line, parts, ends).abs()
    # `not <=` also finds NaN.
    return ~(gap <= (torch.inf if tol is None else tol))


def _along_batch(line: Line, rows: Tensor, part: Tensor, axis: int) -> Tensor:
    """Shape flags of rows so that they broadcast over a tensor of the line."""
    return rows.expand(line.n_rows).reshape(-1, *[1] * (part.ndim - 1)).movedim(0, axis)
