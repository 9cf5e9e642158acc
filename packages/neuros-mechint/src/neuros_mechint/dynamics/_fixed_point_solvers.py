"""Roots of F(x) - x for many starts at once: Levenberg-Marquardt, Newton-Krylov and Adam."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuros_mechint.dynamics._step import Map, jacobian, push_forward

__all__ = ["SOLVERS", "Budget", "gradient_is_small", "levenberg_marquardt", "speed"]

# A start is at a minimum of q when no direction of J explains more than this share of r.
_FLAT = 1e-4
# Basis of one Newton-Krylov step, and how often it restarts.
_KRYLOV, _RESTARTS = 40, 3
# Gradient steps that count as one iteration of Adam.
_ADAM_STEPS = 100


class Budget(NamedTuple):
    """When to stop, and how many Jacobians to form at a time."""

    max_iterations: int
    tol_q: float
    chunk: int | None


Solver = Callable[[Map, Tensor, Tensor | None, Budget], Tensor]


def speed(residual: Float[Tensor, "start state"]) -> Float[Tensor, " start"]:
    """`q = 1/2 |F(x) - x|^2` (Sussillo & Barak 2013, eq. 2.2)."""
    q: Tensor = residual.square().sum(-1) / 2
    return q


def gradient_is_small(
    call: Map, x: Float[Tensor, "start state"], u: Tensor | None, chunk: int | None
) -> Bool[Tensor, " start"]:
    """Whether `grad q = J^T r` is near 0, beside the size of J and r."""
    residual = call(x, u) - x
    J = _residual_jacobian(call, x, u, chunk)
    gradient = (J.mT @ residual.unsqueeze(-1)).squeeze(-1).norm(dim=-1)
    scale = J.flatten(1).norm(dim=-1).clamp(min=1.0)
    flat: Tensor = gradient <= _FLAT * scale * residual.norm(dim=-1)
    return flat


def _residual_jacobian(call: Map, x: Tensor, u: Tensor | None, chunk: int | None) -> Tensor:
    return jacobian(call, x, u, chunk=chunk) - torch.eye(
        x.shape[-1], dtype=x.dtype, device=x.device
    )


def levenberg_marquardt(
    call: Map, start: Tensor, u: Tensor | None, budget: Budget
) -> Float[Tensor, "start state"]:
    """Damped Gauss-Newton steps with exact Jacobians; starts that are done leave the batch.

    A start takes one more step after it reached the tolerance, which brings q to rounding.
    """
    x = start.clone()
    damping = x.new_full((len(x),), 1e-2)
    residual = call(x, u) - x
    q = speed(residual)
    active = torch.arange(len(x), device=x.device)
    done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for _ in range(budget.max_iterations):
        active = active[~done[active]]
        if not len(active):
            break
        inputs = None if u is None else u[active]
        J = _residual_jacobian(call, x[active], inputs, budget.chunk)
        step = _damped(J, residual[active], damping[active])
        trial = x[active] - step
        trial_residual = call(trial, inputs) - trial
        trial_q = speed(trial_residual)
        better = trial_q < q[active]
        done[active] = q[active] <= budget.tol_q
        taken = active[better]
        x[taken], residual[taken], q[taken] = trial[better], trial_residual[better], trial_q[better]
        damping[active] = torch.where(better, damping[active] / 10, damping[active] * 8)
        damping.clamp_(1e-16, 1e8)
    return x


def _damped(
    J: Float[Tensor, "start state state"],
    residual: Float[Tensor, "start state"],
    damping: Float[Tensor, " start"],
) -> Float[Tensor, "start state"]:
    """Solution of `(J^T J + mu I) d = J^T r`, with mu relative to the largest column of J."""
    normal = J.mT @ J
    size = normal.diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=1e-12)
    ridge = torch.diag_embed((damping * size).unsqueeze(-1).expand(J.shape[:2]))
    right = J.mT @ residual.unsqueeze(-1)
    plain, failed = torch.linalg.solve_ex(normal + ridge, right)
    found = plain.squeeze(-1)
    usable = (failed == 0) & torch.isfinite(found).all(-1)
    return torch.where(usable.unsqueeze(-1), found, right.squeeze(-1) / size.unsqueeze(-1))


def newton_krylov(
    call: Map, start: Tensor, u: Tensor | None, budget: Budget
) -> Float[Tensor, "start state"]:
    """Newton steps whose linear systems are solved from Jacobian-vector products (GMRES)."""
    x = start.clone()
    for _ in range(budget.max_iterations):
        residual = call(x, u) - x
        q = speed(residual)
        if bool((q <= budget.tol_q).all()):
            break
        step = torch.zeros_like(x)
        for _ in range(_RESTARTS):
            step = step + _gmres(call, x, u, residual - _product(call, x, u, step))
        x = _backtracked(call, x, u, step, q)
    return x


def _product(call: Map, x: Tensor, u: Tensor | None, v: Tensor) -> Tensor:
    return push_forward(call, x, u, v.unsqueeze(0))[1][0] - v


def _gmres(call: Map, x: Tensor, u: Tensor | None, right: Tensor) -> Tensor:
    """One cycle of GMRES for every start: the least residual in a Krylov space."""
    tiny = torch.finfo(x.dtype).tiny
    size = min(_KRYLOV, x.shape[-1])
    norm = right.norm(dim=-1, keepdim=True).clamp(min=tiny)
    basis, images = [right / norm], []
    for _ in range(size):
        image = _product(call, x, u, basis[-1])
        images.append(image)
        held = torch.stack(basis, -1)
        # Twice is enough (Giraud 2005): one pass loses orthogonality near convergence.
        for _ in range(2):
            image = image - (held @ (held.mT @ image.unsqueeze(-1))).squeeze(-1)
        length = image.norm(dim=-1, keepdim=True)
        basis.append(torch.where(length > 1e-12, image / length.clamp(min=tiny), 0.0))
    A = torch.stack(images, -1)
    weights = torch.linalg.pinv(A) @ right.unsqueeze(-1)
    step: Tensor = (torch.stack(basis[:-1], -1) @ weights).squeeze(-1)
    return step


def _backtracked(call: Map, x: Tensor, u: Tensor | None, step: Tensor, q: Tensor) -> Tensor:
    """The longest of the halved steps that lowers q, for every start."""
    best, length = x, x.new_ones(len(x), 1)
    open_ = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for _ in range(12):
        trial = x - length * step
        better = open_ & (speed(call(trial, u) - trial) < q)
        best = torch.where(better.unsqueeze(-1), trial, best)
        open_ = open_ & ~better
        length = length / 2
    return best


def adam(
    call: Map, start: Tensor, u: Tensor | None, budget: Budget
) -> Float[Tensor, "start state"]:
    """Gradient descent on q of every start, with a rate that falls to 0 along a cosine."""
    x = start.clone().requires_grad_()
    with torch.enable_grad():
        optimizer = torch.optim.Adam([x], lr=0.05)
        total = budget.max_iterations * _ADAM_STEPS
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
        for _ in range(total):
            q = speed(call(x, u) - x)
            if bool((q <= budget.tol_q).all()):
                break
            (x.grad,) = torch.autograd.grad(q.sum(), x)
            optimizer.step()
            schedule.step()
    return x.detach()


SOLVERS: dict[str, Solver] = {
    "newton": levenberg_marquardt,
    "krylov": newton_krylov,
    "adam": adam,
}
