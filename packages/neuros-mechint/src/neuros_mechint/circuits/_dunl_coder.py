"""How a DUNL model encodes: signals folded into independent problems, and the descent on them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.circuits._dunl_encoder import (
    SparseProblem,
    attach,
    descend,
    descend_monotone,
)
from neuros_mechint.circuits._dunl_likelihood import Likelihood
from neuros_mechint.circuits._dunl_operators import Convolution, lipschitz

__all__ = ["SparseCoder"]

# How many of the last iterations `backward="truncated"` keeps a graph of.
_KEPT = 10


@dataclass(frozen=True)
class SparseCoder:
    """The settings of an encoder; see `DUNLModel` for what each means."""

    n_neurons: int
    likelihood: Likelihood
    group_sparsity: float
    nonneg_codes: bool
    share_kernels: bool
    accelerate: bool
    n_iterations: int
    step_size: float | None
    backward: str

    def fold(
        self,
        signals: Float[Tensor, "batch unit time"],
        kernels: Float[Tensor, "group factor tap"],
        sparsity: Float[Tensor, " factor"],
        *,
        baseline: Tensor | None,
        support: Tensor | None,
        n_restarts: int = 1,
    ) -> SparseProblem:
        """Put neurons into the batch when they share kernels, into the groups when not."""
        if baseline is not None:
            baseline = baseline.to(signals).expand(signals.shape[:2])
        if self.share_kernels:
            fold = (-1, 1)
            activity = signals.reshape(*fold, signals.shape[-1]).expand(-1, n_restarts, -1)
            baseline = None if baseline is None else baseline.reshape(fold)
            support = None if support is None else support.flatten(0, 1)[:, None]
        else:
            activity = signals.repeat(1, n_restarts, 1)
            baseline = None if baseline is None else baseline.repeat(1, n_restarts)
            support = None if support is None else support.repeat(1, n_restarts, 1, 1)
        return SparseProblem(
            activity=activity,
            kernels=kernels,
            convolution=Convolution(kernels, signals.shape[-1]),
            likelihood=self.likelihood,
            sparsity=sparsity.to(signals)[:, None],
            group_sparsity=self.group_sparsity,
            neurons=(0 if self.share_kernels else 1, self.n_neurons),
            nonneg=self.nonneg_codes,
            support=support,
            baseline=baseline,
        )

    def encode(self, problem: SparseProblem) -> Float[Tensor, "batch group factor event"]:
        """The codes, with the gradient that `backward` names."""
        shape = (*problem.activity.shape[:2], problem.kernels.shape[1])
        codes = problem.activity.new_zeros(*shape, problem.convolution.n_events)
        step = self._first_step(problem, codes)
        kept = {"unroll": self.n_iterations, "truncated": _KEPT, "implicit": 0}[self.backward]
        kept = min(kept, self.n_iterations)
        with torch.no_grad():
            codes, step = self._iterate(problem, codes, step, self.n_iterations - kept)
        if self.backward == "implicit":
            return attach(problem, codes) if torch.is_grad_enabled() else codes
        return self._iterate(problem, codes, step, kept)[0]

    def _iterate(
        self, problem: SparseProblem, codes: Tensor, step: Tensor, n: int
    ) -> tuple[Tensor, Tensor]:
        if self.likelihood.steepest is None:
            return descend_monotone(problem, codes, step, n, accelerate=self.accelerate)
        return descend(problem, codes, step, n, accelerate=self.accelerate), step

    @torch.no_grad()
    def _first_step(self, problem: SparseProblem, nothing: Tensor) -> Tensor:
        bound = lipschitz(problem.kernels, problem.convolution.n_time)
        if self.group_sparsity and not self.share_kernels:
            # The penalty ties the neurons of a group, so they must step alike.
            most = bound.reshape(-1, self.n_neurons).amax(-1)
            bound = most.repeat_interleave(self.n_neurons)
        if self.likelihood.steepest is None:
            # The curvature has no bound: start from the one at the baseline.
            curvature = self.likelihood.curvature(problem.drive(nothing)[0]).amax(-1)
            step = 1 / (bound * problem.together(curvature))[..., None, None]
            return step if self.step_size is None else torch.full_like(step, self.step_size)
        safe = 1 / (bound * self.likelihood.steepest)
        if self.step_size is None:
            return safe[:, None, None]
        most_allowed = float(safe.min())
        if not 0 < self.step_size <= most_allowed * (1 + 1e-6):
            raise ValueError(
                f"step_size must be above 0 and at most 1 / L = {most_allowed:.4g} for these "
                f"kernels, got {self.step_size}; step_size=None takes the bound"
            )
        return torch.full_like(safe, self.step_size)[:, None, None]
