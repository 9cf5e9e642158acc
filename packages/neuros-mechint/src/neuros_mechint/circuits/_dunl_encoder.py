r"""Sparse codes of a signal: accelerated proximal gradient descent, and its derivative.

The codes minimise $\min_a \ell(a + H x; y) + \lambda \|x\|_1 + \gamma \sum_{k,t} \|x_{kt}\|_2$,
the last norm over neurons. The proximal map of the two penalties together is the one of the
first, then that of the second (Jenatton et al. 2011).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuros_mechint._autograd import applied
from neuros_mechint.circuits._dunl_likelihood import Likelihood, best_baseline
from neuros_mechint.circuits._dunl_operators import Convolution

__all__ = ["SparseProblem", "attach", "descend", "descend_monotone"]

# The check for a restart costs a fifth of an iteration, and need not be made in each.
_RESTART_EVERY = 5
_MAX_HALVINGS = 30
_MAX_CG = 200


@dataclass(frozen=True)
class SparseProblem:
    """Signals, kernels and penalties of codes (batch, group, factor, event).

    Attributes:
        activity: The signals.
        kernels: Unit kernels.
        convolution: Their sums and inner products.
        likelihood: Distribution of the activity.
        sparsity: Weight of the absolute values, of every factor.
        group_sparsity: Weight of the norms over neurons.
        neurons: Axis that holds the neurons (0 batch, 1 group) and how many they are.
        nonneg: Whether codes are at least zero.
        support: Where codes may be other than zero; None: everywhere.
        baseline: The baseline, or None to estimate it.
    """

    activity: Tensor
    kernels: Tensor
    convolution: Convolution
    likelihood: Likelihood
    sparsity: Tensor
    group_sparsity: float
    neurons: tuple[int, int]
    nonneg: bool
    support: Tensor | None
    baseline: Tensor | None

    def drive(
        self, codes: Float[Tensor, "batch group factor event"], start: Tensor | None = None
    ) -> tuple[Float[Tensor, "batch group time"], Tensor, Tensor]:
        """The drive with its baseline, the baseline, and the sum that it was raised by."""
        made = self.convolution.synthesize(codes)
        if self.baseline is not None:
            a = self.baseline.expand(made.shape[:-1])
            return made + a[..., None], a, torch.zeros_like(a)
        a, raised = best_baseline(self.likelihood, self.activity, made, start)
        return made + a[..., None], a, raised

    def slope(
        self, drive: Float[Tensor, "batch group time"]
    ) -> Float[Tensor, "batch group factor event"]:
        """Gradient of the likelihood in the codes; at the best baseline that of the minimum."""
        return self.convolution.correlate(self.likelihood.mean(drive) - self.activity)

    def objective(
        self, codes: Float[Tensor, "batch group factor event"]
    ) -> Float[Tensor, "batch group"]:
        """What the codes minimise; neurons that share a penalty share the number."""
        drive, a, raised = self.drive(codes)
        found = self.likelihood.loss(drive, self.activity).sum(-1) - raised * a
        found = found + (self.sparsity * codes.abs()).sum((-2, -1))
        if not self.group_sparsity:
            return found
        found = found + self.group_sparsity * self.norms(codes).sum((-2, -1)) / self.neurons[1]
        return self.together(found)

    def smooth(
        self, codes: Float[Tensor, "batch group factor event"]
    ) -> tuple[Float[Tensor, "batch group"], Float[Tensor, "batch group factor event"]]:
        """The likelihood's part of the objective, and its gradient."""
        drive, a, raised = self.drive(codes)
        value = self.likelihood.loss(drive, self.activity).sum(-1) - raised * a
        return self.together(value), self.slope(drive)

    def together(self, values: Float[Tensor, "batch group"]) -> Float[Tensor, "batch group"]:
        """Sums over neurons, seen by each, where a penalty ties them."""
        if not self.group_sparsity:
            return values
        axis, n = self.neurons
        split = torch.unflatten(values, axis, (-1, n))
        return split.sum(axis + 1, keepdim=True).expand_as(split).flatten(axis, axis + 1)

    def norms(
        self, codes: Float[Tensor, "batch group factor event"]
    ) -> Float[Tensor, "batch group factor event"]:
        """Norm over neurons, seen by each of them."""
        axis, n = self.neurons
        split = torch.unflatten(codes, axis, (-1, n))
        # The norm has no slope at zero; there the penalty holds the code anyway.
        size = split.square().sum(axis + 1, keepdim=True)
        size = torch.where(size > 0, size, 1.0).sqrt() * (size > 0)
        return size.expand_as(split).flatten(axis, axis + 1)

    def shrink(
        self,
        codes: Float[Tensor, "batch group factor event"],
        step: Float[Tensor, "*batch 1 1"],
    ) -> Float[Tensor, "batch group factor event"]:
        """Proximal map of the penalties and constraints."""
        bound = step * self.sparsity
        codes = (
            (codes - bound).clamp(min=0)
            if self.nonneg
            else codes.sign() * (codes.abs() - bound).clamp(min=0)
        )
        if self.support is not None:
            codes = codes * self.support
        if self.group_sparsity:
            size = self.norms(codes)
            safe = torch.where(size > 0, size, 1.0)
            codes = codes * (1 - step * self.group_sparsity / safe).clamp(min=0)
        return codes


def descend(
    problem: SparseProblem,
    codes: Float[Tensor, "batch group factor event"],
    step: Float[Tensor, "group 1 1"],
    n_iterations: int,
    *,
    accelerate: bool,
) -> Float[Tensor, "batch group factor event"]:
    """FISTA with a fixed step (Beck & Teboulle 2009), restarted where it overshoots.

    The restart (O'Donoghue & Candès 2015, the gradient scheme) keeps momentum from carrying past
    the minimum, and makes the codes converge at a linear rate.
    """
    ahead, momentum, start = codes, torch.ones_like(codes[..., :1, :1]), None
    for i in range(n_iterations):
        drive, start, _ = problem.drive(ahead, start)
        new = problem.shrink(ahead - step * problem.slope(drive), step)
        if not accelerate:
            codes = ahead = new
            continue
        moved = new - codes
        with torch.no_grad():
            if i % _RESTART_EVERY == 0:
                against = torch.einsum("bgke,bgke->bg", ahead - new, moved) > 0
                momentum = torch.where(against[..., None, None], 1.0, momentum)
            grown = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
            carried = (momentum - 1) / grown
        ahead, codes, momentum = torch.addcmul(new, carried, moved), new, grown
    return codes


def descend_monotone(
    problem: SparseProblem,
    codes: Float[Tensor, "batch group factor event"],
    step: Float[Tensor, "batch group 1 1"],
    n_iterations: int,
    *,
    accelerate: bool,
) -> tuple[Float[Tensor, "batch group factor event"], Float[Tensor, "batch group 1 1"]]:
    """FISTA for a curvature without bound: steps are halved until the model of the slope holds.

    An extrapolated step that raises the objective is taken back and its momentum dropped, so the
    objective never rises.

    Returns:
        The codes and the steps in use at the end.
    """
    ahead, momentum = codes, torch.ones_like(step)
    best = problem.objective(codes)
    for _ in range(n_iterations):
        value, slope = problem.smooth(ahead)
        new, step = _backtrack(problem, ahead, value, slope, step)
        reached = problem.objective(new)
        # What rounds off equal counts as no rise.
        worse = (reached > best + 1e-12 * best.abs())[..., None, None]
        grown = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        carried = (momentum - 1) / grown if accelerate else torch.zeros_like(grown)
        ahead = torch.where(worse, codes, new + carried * (new - codes))
        codes = torch.where(worse, codes, new)
        best = torch.where(worse[..., 0, 0], best, reached)
        momentum = torch.where(worse, 1.0, grown)
    return codes, step


def _backtrack(
    problem: SparseProblem, ahead: Tensor, value: Tensor, slope: Tensor, step: Tensor
) -> tuple[Tensor, Tensor]:
    for _ in range(_MAX_HALVINGS):
        new = problem.shrink(ahead - step * slope, step)
        moved = new - ahead
        linear = problem.together((slope * moved).sum((-2, -1)))
        square = problem.together(moved.square().sum((-2, -1)))
        model = value + linear + square / (2 * step[..., 0, 0])
        above = problem.smooth(new)[0] > model + 1e-6 * model.abs()
        if not bool(above.any()):
            return new, step
        step = torch.where(above[..., None, None], step / 2, step)
    return new, step


class _Solution(torch.autograd.Function):
    """Hands converged codes on, and their gradient back to the condition that they solve."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        codes, _, ctx.problem = args
        ctx.save_for_backward(codes)
        return torch.clone(codes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (codes,) = ctx.saved_tensors
        return None, -_solve(ctx.problem, codes, grads[0]), None


def attach(
    problem: SparseProblem, codes: Float[Tensor, "batch group factor event"]
) -> Float[Tensor, "batch group factor event"]:
    r"""The same codes with the gradient of the minimiser in kernels, activity and penalties.

    On the active set the condition $\nabla \ell(x; \theta) + \lambda\,\mathrm{sign}(x) = 0$ holds,
    so $dx = -(\nabla^2_{AA})^{-1} d(\nabla \ell + \lambda\,\mathrm{sign})$: one linear system
    instead of a graph through all iterations (Gould et al. 2016; Bertrand et al. 2022).
    """
    codes = codes.detach()
    drive, _, _ = problem.drive(codes)
    slope = problem.slope(drive) + problem.sparsity * codes.sign()
    attached: Tensor = applied(_Solution, codes, slope, problem)
    return attached


@torch.no_grad()
def _solve(problem: SparseProblem, codes: Tensor, target: Tensor) -> Tensor:
    """Conjugate gradients on the active set, every signal with numbers of its own."""
    active = codes != 0
    drive, _, _ = problem.drive(codes)
    weight = problem.likelihood.curvature(drive)

    def product(v: Tensor) -> Tensor:
        return _curve(problem, codes, active, weight, v)

    x = torch.zeros_like(codes)
    r = torch.where(active, target, 0.0)
    p, size = r, problem.together(r.square().sum((-2, -1)))
    goal = size * torch.finfo(codes.dtype).eps
    for _ in range(_MAX_CG):
        if bool((size <= goal).all()):
            break
        image = product(p)
        bend = problem.together((p * image).sum((-2, -1)))
        length = torch.where((bend > 0) & (size > goal), size / bend, 0.0)[..., None, None]
        x, r = x + length * p, r - length * image
        new = problem.together(r.square().sum((-2, -1)))
        p = r + torch.where(size > 0, new / size, 0.0)[..., None, None] * p
        size = new
    return x


def _curve(
    problem: SparseProblem,
    codes: Tensor,
    active: Bool[Tensor, "batch group factor event"],
    weight: Tensor,
    v: Tensor,
) -> Tensor:
    """Second derivative of the objective along v, on the active set."""
    moved = problem.convolution.synthesize(v)
    if problem.baseline is None:
        # The best baseline moves along and takes the weighted mean away.
        mean = (weight * moved).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True)
        moved = moved - mean
    found = problem.convolution.correlate(weight * moved)
    if problem.group_sparsity:
        size = problem.norms(codes)
        safe = torch.where(size > 0, size, 1.0)
        axis, n = problem.neurons
        split = torch.unflatten(codes * v, axis, (-1, n))
        along = split.sum(axis + 1, keepdim=True).expand_as(split).flatten(axis, axis + 1)
        found = found + problem.group_sparsity * (v / safe - codes * along / safe**3)
    return torch.where(active, found, 0.0)
