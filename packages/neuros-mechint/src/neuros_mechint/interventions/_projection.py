"""The smallest step into an intersection of half-spaces, inside a box."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["project"]

Missing = Callable[[Tensor], Tensor]


def project(
    slopes: Float[Tensor, "batch constraint d"],
    needed: Float[Tensor, "batch constraint"],
    l1: float,
    low: Float[Tensor, "batch d"],
    high: Float[Tensor, "batch d"],
) -> Float[Tensor, "batch d"]:
    r"""Minimise $\frac{1}{2} |d|_2^2 + \lambda |d|_1$ with `slopes @ d >= needed` and the box.

    The dual in the multipliers m >= 0 of the constraints is concave, and for given m the best d is
    known entry by entry: soft threshold and clamp of $S^T m$. One constraint: bisection, because
    `slopes @ d` grows with m. Several: accelerated projected gradient (Nesterov).
    """

    def step(multiplier: Tensor) -> Tensor:
        push = (multiplier[:, None] @ slopes)[:, 0]
        shrunk = push.sign() * (push.abs() - l1).clamp(min=0.0)
        return shrunk.clamp(low, high)

    def missing(multiplier: Tensor) -> Tensor:
        return needed - (slopes @ step(multiplier)[..., None])[..., 0]

    # The dual's gradient is Lipschitz with the largest eigenvalue of S S^T.
    curvature = torch.linalg.eigvalsh(slopes @ slopes.mT)[:, -1:]
    # Where nothing has a slope, no multiplier changes anything: any curvature will do.
    curvature = torch.where(curvature > 0, curvature, torch.ones_like(curvature))
    solve = _bisect if slopes.shape[1] == 1 else _ascend
    return step(solve(missing, torch.zeros_like(needed), curvature))


def _bisect(missing: Missing, near: Tensor, curvature: Tensor) -> Tensor:
    """Smallest multiplier of the one constraint that leaves nothing missing."""
    # Without box and threshold this is the solution already.
    far = missing(near).clamp(min=0.0) / curvature
    for _ in range(60):
        short = missing(far) > 0
        # Doubling ends where the box or a zero slope leaves nothing to gain.
        if not bool(short.any()):
            break
        near, far = torch.where(short, far, near), torch.where(short, 2 * far, far)
    for _ in range(40):
        middle = (near + far) / 2
        short = missing(middle) > 0
        near, far = torch.where(short, middle, near), torch.where(short, far, middle)
    return far


def _ascend(missing: Missing, multiplier: Tensor, curvature: Tensor) -> Tensor:
    """Multipliers of several constraints."""
    previous, age = multiplier, torch.zeros_like(curvature)
    for k in range(300):
        ahead = multiplier + age / (age + 3.0) * (multiplier - previous)
        slope = missing(ahead)
        previous, multiplier = multiplier, (ahead + slope / curvature).clamp(min=0.0)
        # Where the step runs against the slope, the momentum starts again (O'Donoghue 2015).
        against = (slope * (multiplier - previous)).sum(-1, keepdim=True) < 0
        age = torch.where(against, torch.zeros_like(age), age + 1.0)
        if k % 10 == 9:
            change = (multiplier - previous).abs().amax(-1)
            if bool((change <= 1e-6 * multiplier.abs().amax(-1)).all()):
                break
    return multiplier
