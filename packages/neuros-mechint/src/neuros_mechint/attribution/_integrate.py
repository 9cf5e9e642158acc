"""Gradients summed along a line: with fixed nodes, or refined until the gap is small enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuros_mechint.attribution._line import Line
from neuros_mechint.attribution._quadrature import gauss_legendre
from neuros_mechint.attribution._target import by_copy

__all__ = ["Refined", "gradients_at", "integrate_adaptively", "sum_gradients"]

# Nodes per interval of the refinement. Two see a kink of a piecewise linear network, and one more
# only costs: past the first pass what is left to resolve is hardly ever smooth.
_NODES = 2
_FIRST_INTERVALS = 32


def gradients_at(
    line: Line, t: Float[Tensor, "copies column"], weights: Float[Tensor, "copies column"]
) -> tuple[Float[Tensor, "copies value"], list[Tensor]]:
    """Targets at some points, and their gradients times the weights, shape (copies, batch, ...)."""
    with torch.enable_grad():
        targets, leaves = line.run(t)
    if not targets.requires_grad:
        return targets, [by_copy(torch.zeros_like(leaf), len(t)) for leaf in leaves]
    gradients = torch.autograd.grad(
        targets, leaves, weights.to(targets).expand_as(targets), materialize_grads=True
    )
    return targets.detach(), [by_copy(gradient, len(t)) for gradient in gradients]


def sum_gradients(line: Line, steps: int) -> list[Tensor]:
    """Gradient of the target integrated over the line, with Gauss-Legendre nodes."""
    t, weights = gauss_legendre(steps, device=line.ends[0][0].device)
    total = [torch.zeros_like(part) for part in line.directions()]
    for chunk in line.chunks(steps):
        _, gradients = gradients_at(line, t[chunk, None], weights[chunk, None])
        total = [sum_ + part.sum(0) for sum_, part in zip(total, gradients, strict=True)]
    return total


@dataclass
class _Intervals:
    """Intervals of every row, padded to the longest row: (slot, row)."""

    low: Float[Tensor, "slot value"]
    high: Float[Tensor, "slot value"]
    real: Bool[Tensor, "slot value"]
    target_low: Float[Tensor, "slot value"]
    target_high: Float[Tensor, "slot value"]


class Refined(NamedTuple):
    """Result of a refinement.

    Attributes:
        gradients: Integrated gradients, rows first.
        steps: Points per row at which the model was run.
        t: Positions of the nodes of the accepted intervals.
        weights: Their weights, 0 where a node belongs to other rows.
    """

    gradients: list[Tensor]
    steps: int
    t: Float[Tensor, "copies value"]
    weights: Float[Tensor, "copies value"]


def integrate_adaptively(
    line: Line, rows: Bool[Tensor, "value"], tol: float, max_steps: int
) -> Refined:
    r"""Integrate the gradient over intervals that are divided until each is accurate.

    The error of an interval is its own gap, the difference between what its nodes attribute and the
    change of the target across it. Every round accepts the intervals whose gap is below half of
    what is left of `tol`, shared equally; so the gaps of a row add up to at most `tol`. Others are
    cut where the tangents at their ends meet, which for a piecewise linear target with one kink
    inside is the kink, and in every second round in the middle.

    Args:
        line: The line.
        rows: Which rows to integrate; the others get zeros.
        tol: Largest sum of the gaps of a row.
        max_steps: Number of points per row after which what is there is taken.
    """
    n = _FIRST_INTERVALS
    edges = torch.linspace(0, 1, n + 1, dtype=torch.float64, device=rows.device)
    known = _targets(line, edges[:, None].expand(-1, len(rows)))
    used = n + 1
    todo = _Intervals(
        edges[:-1, None].expand(-1, len(rows)),
        edges[1:, None].expand(-1, len(rows)),
        rows.expand(n, -1),
        known[:-1],
        known[1:],
    )
    total = [torch.zeros_like(part) for part in line.directions()]
    left = torch.full_like(known[0], tol)
    # Below this a gap is rounding, which no division reduces.
    epsilon = torch.finfo(line.ends[0][0].dtype).eps
    floor = 4 * epsilon * known.abs().amax(0)
    halve = False
    rule: list[tuple[Tensor, Tensor]] = []
    while len(todo.low):
        n_slots = len(todo.low)
        used += n_slots * _NODES
        # Another round would cut each interval, at the worst, and read its middle too.
        last = used + n_slots * (2 * _NODES + 1) > max_steps
        allowed = torch.maximum(left / (2 * todo.real.sum(0).clamp(min=1)), floor)
        accepted, gaps, slopes = _try(line, todo, allowed, total, rule, take_all=last)
        left = left - (gaps * accepted).sum(0)
        todo, n_read = _divide(line, todo, todo.real & ~accepted, slopes, halve=halve)
        used += n_read
        halve = not halve
    t, weights = (torch.cat(parts) for parts in zip(*rule, strict=True))
    return Refined(total, used, t, weights)


def _try(
    line: Line,
    todo: _Intervals,
    allowed: Float[Tensor, "value"],
    total: list[Tensor],
    rule: list[tuple[Tensor, Tensor]],
    *,
    take_all: bool,
) -> tuple[
    Bool[Tensor, "slot value"], Float[Tensor, "slot value"], Float[Tensor, "ends slot value"]
]:
    """Integrate every interval; add the accepted ones to `total` and their nodes to `rule`."""
    accepted, gaps = torch.zeros_like(todo.real), torch.zeros_like(todo.low)
    slopes = torch.zeros(2, *todo.low.shape, dtype=torch.float64, device=todo.low.device)
    nodes, weights = gauss_legendre(_NODES, device=todo.low.device)
    per_forward = max(1, line.copies_per_forward // _NODES)
    for start in range(0, len(todo.low), per_forward):
        part = slice(start, start + per_forward)
        low, width = todo.low[part], todo.high[part] - todo.low[part]
        t = low + nodes[:, None, None] * width
        one = torch.ones_like(t).flatten(0, 1)
        _, gradients = gradients_at(line, t.flatten(0, 1), one)
        along = _along(line, gradients, todo).reshape(_NODES, *low.shape)
        slopes[0, part], slopes[1, part] = along[0], along[-1]
        rise = todo.target_high[part] - todo.target_low[part]
        gaps[part] = (rise - width * torch.einsum("n,nsv->sv", weights, along)).abs()
        accepted[part] = todo.real[part] & ((gaps[part] <= allowed) | take_all)
        scale = (weights[:, None, None] * width * accepted[part]).flatten(0, 1)
        used = (scale != 0).any(1)
        rule.append((t.flatten(0, 1)[used], scale[used]))
        for k, gradient in enumerate(gradients):
            share = scale.to(gradient.dtype).expand(gradient.shape[:2])
            total[k] += torch.einsum("cr,cr...->r...", share, gradient)
    return accepted, gaps, slopes


def _along(
    line: Line, gradients: Sequence[Tensor], todo: _Intervals
) -> Float[Tensor, "copies value"]:
    """Derivative of the target along the line."""
    rows = torch.stack(
        [
            torch.einsum("crd,rd->cr", g.flatten(2).double(), d.flatten(1).double())
            for g, d in zip(
                (g if g.ndim > 2 else g[..., None] for g in gradients),
                (d if d.ndim > 1 else d[..., None] for d in line.directions()),
                strict=True,
            )
        ]
    ).sum(0)
    return rows if todo.low.shape[1] == line.n_rows else rows.sum(1, keepdim=True)


def _divide(
    line: Line,
    todo: _Intervals,
    chosen: Bool[Tensor, "slot value"],
    slopes: Float[Tensor, "ends slot value"],
    *,
    halve: bool,
) -> tuple[_Intervals, int]:
    """Cut the chosen intervals in two and pack them; count the targets that had to be read."""
    n_slots = int(chosen.sum(0).max())
    # A stable sort moves what is chosen to the front of every row.
    order = (~chosen).int().argsort(dim=0, stable=True)[:n_slots]
    low, high, real, f_low, f_high, first, second = (
        whole.gather(0, order)
        for whole in (
            todo.low, todo.high, chosen, todo.target_low, todo.target_high, slopes[0], slopes[1]
        )
    )  # fmt: skip
    cut = (low + high) / 2
    if not halve:
        meet = (f_high - f_low + first * low - second * high) / (first - second)
        cut = torch.where((meet > low) & (meet < high), meet, cut)
    f_cut = _targets(line, cut)
    halves = _Intervals(
        torch.cat([low, cut]),
        torch.cat([cut, high]),
        torch.cat([real, real]),
        torch.cat([f_low, f_cut]),
        torch.cat([f_cut, f_high]),
    )
    return halves, n_slots


def _targets(line: Line, t: Float[Tensor, "copies value"]) -> Float[Tensor, "copies value"]:
    """Target at some points, in float64."""
    found = [torch.zeros_like(t[:0])]
    with torch.no_grad():
        found += [line.run(t[chunk])[0].double() for chunk in line.chunks(len(t))]
    return torch.cat(found)
