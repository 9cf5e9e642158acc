"""Search for a maximum in a convex set, several problems at once."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Found", "search"]

# Non-monotone projected gradients (Birgin, Martinez & Raydan 2000, doi:10.1137/S1052623497330963):
# how many earlier values a step may exceed, and the share of the predicted gain it has to reach.
_MEMORY = 10
_SUFFICIENT = 1e-4
_MAX_HALVINGS = 30
_STEP_RANGE = (1e-12, 1e12)

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Values to minimise, one per problem, and the numbers of every row that go into the history."""


class Found(NamedTuple):
    """Best points of a search.

    Attributes:
        x: Shape (problem, ...).
        history: Numbers of every row at the start and after every step.
    """

    x: Tensor
    history: list[Tensor]


def search(
    objective: Objective,
    start: Float[Tensor, "problem *shape"],
    project: Callable[[Tensor], Tensor],
    *,
    steps: int,
    tolerance: float,
    disturb: Callable[[Tensor, int], Tensor | None],
) -> Found:
    """Minimise several independent problems by projected gradients with Barzilai-Borwein steps.

    Args:
        objective: What to minimise.
        start: First points.
        project: Gives the nearest points of the set.
        steps: Most steps.
        tolerance: The search ends when every projected gradient step is shorter than this share
            of its point.
        disturb: Given the points and the number of the step, new points or None.

    Raises:
        ValueError: When a value is not finite.
    """
    x = project(start)
    f, g, shown = _evaluate(objective, x)
    history, past = [shown], f[None]
    best, best_f = x, f
    # A first step that moves the point by about its own length.
    size = _norm(x).clamp(min=1e-3) / _norm(g).clamp(min=1e-30)
    for step in range(steps):
        moved, f_new, g_new, shown = _line_search(objective, project, (x, f, g), size, past)
        size = _next_size(moved - x, g_new - g, size)
        still = bool((_norm(moved - x) <= tolerance * _norm(x).clamp(min=1e-12)).all())
        x, f, g = moved, f_new, g_new
        # What follows the last step would not be searched again.
        changed = disturb(x, step + 1) if step + 1 < steps else None
        if changed is not None:
            x = project(changed)
            f, g, shown = _evaluate(objective, x)
            past, still = f[None], False
        past = torch.cat([past, f[None]])[-_MEMORY:]
        history.append(shown)
        # Of equal values the later: its gradient step was shorter.
        better = f <= best_f
        best, best_f = torch.where(_wide(better, x), x, best), torch.where(better, f, best_f)
        if still:
            break
    return Found(best, history)


def _line_search(
    objective: Objective,
    project: Callable[[Tensor], Tensor],
    here: tuple[Tensor, Tensor, Tensor],
    size: Float[Tensor, "problem"],
    past: Float[Tensor, "memory problem"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Go towards the projected gradient step, half as far until the value is low enough."""
    x, f, g = here
    direction = project(x - _wide(size, x) * g) - x
    slope = _dot(g, direction)
    share = torch.ones_like(f)
    # Gains below the rounding of the value cannot be seen, but the gradient still knows the way.
    highest = past.amax(0)
    highest = highest + 4 * torch.finfo(f.dtype).eps * highest.abs()
    for _ in range(_MAX_HALVINGS):
        trial = x + _wide(share, x) * direction
        f_new, g_new, shown = _evaluate(objective, trial)
        bad: Bool[Tensor, problem] = f_new > highest + _SUFFICIENT * share * slope
        if not bool(bad.any()):
            return trial, f_new, g_new, shown
        share = torch.where(bad, share / 2, share)
    # At the precision of the numbers no step helps these problems any more.
    share = torch.where(bad, torch.zeros_like(share), share)
    trial = x + _wide(share, x) * direction
    f_new, g_new, shown = _evaluate(objective, trial)
    return trial, f_new, g_new, shown


def _next_size(
    s: Float[Tensor, "problem *shape"],
    y: Float[Tensor, "problem *shape"],
    size: Float[Tensor, "problem"],
) -> Float[Tensor, "problem"]:
    curvature = _dot(s, y)
    # Along a line without upward curvature the optimum is on the boundary, as far as can be.
    longer = torch.where(_dot(s, s) > 0, 10 * size, size)
    found = torch.where(curvature > 0, _dot(s, s) / curvature.clamp(min=1e-300), longer)
    return found.clamp(*_STEP_RANGE)


def _evaluate(objective: Objective, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        f, shown = objective(leaf)
        if not f.requires_grad:
            raise ValueError("the activation does not depend on the stimulus")
        (g,) = torch.autograd.grad(f.sum(), leaf, materialize_grads=True)
    if not bool(f.isfinite().all() and g.isfinite().all()):
        raise ValueError(
            "the objective or its gradient is not finite on the way; bound the stimulus with "
            "constraint=NormBall(r) or Box(low, high), or penalise it with L2(weight)"
        )
    return f.detach(), g, shown.detach()


def _wide(numbers: Tensor, x: Tensor) -> Tensor:
    column: Tensor = numbers.reshape(-1, *[1] * (x.ndim - 1))
    return column


def _dot(a: Tensor, b: Tensor) -> Tensor:
    products: Tensor = (a * b).flatten(1)
    return products.sum(1)


def _norm(a: Tensor) -> Tensor:
    lengths: Tensor = a.flatten(1).norm(dim=1)
    return lengths
