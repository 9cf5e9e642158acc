"""Two descents of many starts at once: Adam with successive halving, and L-BFGS."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Objective", "adam", "lbfgs"]

# Vectors (restart, free) and their generator-drawn noise or None -> losses (restart,).
Objective: TypeAlias = Callable[[Tensor, Tensor], Tensor]
_WINDOW = 50
_BETAS, _EPSILON = (0.9, 0.999), 1e-8


def _gradient(
    objective: Objective, x: Float[Tensor, "restart free"], restarts: Tensor
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        losses = objective(leaf, restarts)
        (grad,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), grad


def adam(
    objective: Objective,
    start: Float[Tensor, "restart free"],
    *,
    n_epochs: int,
    lr: float,
    tol: float,
    prune: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Descend from every start; the worse half stops at a quarter of the epochs, and at half.

    The step falls to zero along a half cosine. It ends early when the best loss fell by less than
    `tol` of itself in 50 epochs.

    Returns:
        Where every start ended, the losses (epochs, restarts) with NaN where one was stopped, and
        the restarts that went to the end.
    """
    x, alive = start.clone(), torch.arange(len(start), device=start.device)
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    halvings = {max(1, n_epochs // 4), max(2, n_epochs // 2)} if prune else set()
    history: list[Tensor] = []
    best: list[float] = []
    for epoch in range(n_epochs):
        if epoch in halvings and len(alive) > 1:
            # The minimum over the last epochs: Adam's loss is not monotone.
            recent = torch.stack(history[-5:])[:, alive].amin(0)
            alive = alive[recent.argsort(stable=True)[: math.ceil(len(alive) / 2)]].sort().values
        losses, grad = _gradient(objective, x[alive], alive)
        row = x.new_full((len(x),), torch.nan)
        row[alive] = losses
        history.append(row)
        best.append(float(losses.min()))
        if epoch >= _WINDOW and best[epoch - _WINDOW] - min(best) < tol * abs(best[epoch]):
            break
        first[alive] = first[alive].lerp(grad, 1 - _BETAS[0])
        second[alive] = second[alive].lerp(grad.square(), 1 - _BETAS[1])
        mean, square = first[alive], second[alive]
        mean = mean / (1 - _BETAS[0] ** (epoch + 1))
        square = square / (1 - _BETAS[1] ** (epoch + 1))
        rate = lr * 0.5 * (1 + math.cos(math.pi * epoch / n_epochs))
        x[alive] -= rate * mean / (square.sqrt() + _EPSILON)
    return x, torch.stack(history), alive


def lbfgs(
    objective: Objective,
    start: Float[Tensor, "restart free"],
    *,
    n_iterations: int,
    tol: float,
    memory: int = 20,
) -> tuple[Tensor, Tensor]:
    """Limited-memory BFGS of every start, with a weak Wolfe line search by bisection.

    The line search suits functions with kinks (Lewis & Overton 2013). A start that no longer falls
    by `tol` of its loss in an iteration is done.

    Returns:
        Where every start ended, and its loss.

    Examples:
        >>> far = torch.tensor([[3.0, -2.0]], dtype=torch.float64)
        >>> ended, _ = lbfgs(lambda x, _: (x - 1).square().sum(-1), far, n_iterations=9, tol=1e-12)
        >>> ended
        tensor([[1., 1.]], dtype=torch.float64)

    References:
        Lewis & Overton (2013), Math. Program. 141, 135-163. doi:10.1007/s10107-012-0514-2
    """
    everyone = torch.arange(len(start), device=start.device)
    x = start.clone()
    losses, grad = _gradient(objective, x, everyone)
    steps: list[Tensor] = []
    turns: list[Tensor] = []
    going = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for _ in range(n_iterations):
        direction = _newton_direction(grad, steps[-memory:], turns[-memory:])
        slope = (direction * grad).sum(-1)
        uphill = slope >= 0
        direction = torch.where(uphill[:, None], -grad, direction)
        if not steps:
            direction = direction / grad.norm(dim=-1, keepdim=True).clamp(min=1.0)
        slope = (direction * grad).sum(-1)
        moved, new_losses, new_grad = _line_search(
            objective, (x, losses, grad), direction, slope, going
        )
        fell = losses - new_losses
        steps.append(moved - x)
        turns.append(new_grad - grad)
        x, losses, grad = moved, new_losses, new_grad
        going = going & (fell > tol * losses.abs())
        if not bool(going.any()):
            break
    return x, losses


def _newton_direction(
    grad: Float[Tensor, "restart free"], steps: list[Tensor], turns: list[Tensor]
) -> Float[Tensor, "restart free"]:
    """The two-loop recursion (Nocedal 1980), for every restart by itself."""
    q = -grad
    kept = []
    scale = torch.ones_like(grad[:, :1])
    for s, y in zip(steps, turns, strict=True):
        curvature = (s * y).sum(-1, keepdim=True)
        # A pair without positive curvature, as of a restart that is done, is left out.
        usable = curvature > 1e-12 * s.norm(dim=-1, keepdim=True) * y.norm(dim=-1, keepdim=True)
        rho = torch.where(usable, 1 / torch.where(usable, curvature, 1.0), 0.0)
        kept.append((s, y, rho))
        length = y.square().sum(-1, keepdim=True)
        scale = torch.where(usable, curvature / torch.where(usable, length, 1.0), scale)
    factors = []
    for s, y, rho in reversed(kept):
        factor = rho * (s * q).sum(-1, keepdim=True)
        q = q - factor * y
        factors.append(factor)
    q = scale * q
    for (s, y, rho), factor in zip(kept, reversed(factors), strict=True):
        q = q + s * (factor - rho * (y * q).sum(-1, keepdim=True))
    return q


def _line_search(
    objective: Objective,
    here: tuple[Tensor, Tensor, Tensor],
    direction: Float[Tensor, "restart free"],
    slope: Float[Tensor, "restart"],
    going: Bool[Tensor, "restart"],
) -> tuple[Tensor, Tensor, Tensor]:
    x, losses, grad = here
    low, high = torch.zeros_like(losses), torch.full_like(losses, torch.inf)
    length = torch.ones_like(losses)
    moved, new_losses, new_grad = x.clone(), losses.clone(), grad.clone()
    open_ = going.clone()
    for _ in range(25):
        at = open_.nonzero()[:, 0]
        if not len(at):
            break
        tried = x[at] + length[at, None] * direction[at]
        tried_losses, tried_grad = _gradient(objective, tried, at)
        enough = tried_losses <= losses[at] + 1e-4 * length[at] * slope[at]
        flat = (tried_grad * direction[at]).sum(-1) >= 0.9 * slope[at]
        better = enough & (tried_losses < new_losses[at])
        moved[at[better]] = tried[better]
        new_losses[at[better]], new_grad[at[better]] = tried_losses[better], tried_grad[better]
        high[at] = torch.where(enough, high[at], length[at])
        low[at] = torch.where(enough, length[at], low[at])
        length = torch.where(high.isinf(), 2 * low, (low + high) / 2)
        open_[at] = ~(enough & flat)
    return moved, new_losses, new_grad
