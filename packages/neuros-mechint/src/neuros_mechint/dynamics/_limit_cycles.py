"""Limit cycles of a map: points that return after exactly so many steps."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuros_mechint.dynamics._step import Map, jacobian

__all__ = ["LimitCycles", "iterated", "orbits"]


class LimitCycles(NamedTuple):
    """Cycles of one period, one row each.

    Attributes:
        points: The states of each cycle in their order, (cycle, period, state).
        multipliers: Eigenvalues of the map over one period (Floquet), (cycle, state).
        is_stable: Whether every multiplier is inside the unit circle, (cycle,).
        inputs: Constant input of each cycle, (cycle, input), or None.

    Examples:
        >>> from neuros_mechint.dynamics import FixedPointFinder
        >>> finder = FixedPointFinder(lambda h, u: 3.2 * h * (1 - h))
        >>> cycles = finder.find_limit_cycles(2, torch.rand(20, 1).double())
        >>> [round(value, 4) for value in cycles.points[0, :, 0].tolist()]
        [0.513, 0.7995]
    """

    points: Tensor
    multipliers: Tensor
    is_stable: Tensor
    inputs: Tensor | None

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return self._asdict()


def iterated(call: Map, period: int) -> Map:
    """The map of so many steps at constant input."""

    def many(h: Tensor, u: Tensor | None) -> Tensor:
        for _ in range(period):
            h = call(h, u)
        return h

    return many


def orbits(
    call: Map, period: int, points: Tensor, u: Tensor | None, tolerance: float
) -> LimitCycles:
    """Cycles among the fixed points of the iterated map: shorter periods out, one row a cycle.

    Args:
        call: A functional step.
        period: Number of steps.
        points: Fixed points of the iterated map, (point, state).
        u: Inputs (point, input) or None.
        tolerance: Relative distance below which states are the same.

    Returns:
        The cycles, each starting at its lexicographically smallest state.
    """
    kept: list[int] = []
    rows: list[Tensor] = []
    for k, point in enumerate(points):
        inputs = None if u is None else u[k : k + 1]
        row = [point.unsqueeze(0)]
        for _ in range(period - 1):
            row.append(call(row[-1], inputs))
        orbit = torch.cat(row)
        limit = 10 * tolerance * (1 + orbit.norm(dim=-1).amax())
        if period > 1 and bool((orbit[1:] - orbit[0]).norm(dim=-1).amin() <= limit):
            continue
        known = any(
            (u is None or bool((u[i] == u[k]).all()))
            and bool((other - point).norm(dim=-1).amin() <= limit)
            for i, other in zip(kept, rows, strict=True)
        )
        if not known:
            first = min(range(period), key=orbit.tolist().__getitem__)
            kept.append(k)
            rows.append(orbit.roll(-first, 0))
    chosen = torch.tensor(kept, dtype=torch.long, device=points.device)
    inputs = None if u is None else u[chosen]
    n_states = points.shape[-1]
    found = torch.stack(rows) if rows else points.new_zeros(0, period, n_states)
    J = jacobian(iterated(call, period), found[:, 0], inputs) if rows else None
    multipliers = (
        points.new_zeros(0, n_states, dtype=torch.complex128)
        if J is None
        else torch.linalg.eigvals(J)
    )
    return LimitCycles(found, multipliers, (multipliers.abs() < 1).all(-1), inputs)
