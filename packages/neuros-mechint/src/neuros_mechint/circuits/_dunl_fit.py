"""Learning the kernels of a DUNL model: starts from data, restarts as one batch, what to check."""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import one_of
from neuros_mechint.circuits._dunl_encoder import SparseProblem
from neuros_mechint.circuits._dunl_likelihood import Likelihood
from neuros_mechint.circuits._dunl_operators import shift_correlation, unit_kernels
from neuros_mechint.circuits._dunl_recentre import recentred
from neuros_mechint.circuits._dunl_start import start_from_data

if TYPE_CHECKING:
    from neuros_mechint.circuits.dunl import DUNLModel

__all__ = ["DUNLFitResult", "FitPlan", "fit_kernels"]

_DUPLICATE = 0.9
# Shrunk codes leave more than the noise; what leaves a fifth less has fitted some of it.
_NOISE_FLOOR = 0.8


@dataclass(frozen=True)
class DUNLFitResult:
    r"""A fit of a DUNL model.

    Attributes:
        kernels: Kernels of the restart that was kept, (factors, L) or (neurons, factors, L).
        history: Objective of the codes per sample of the training trials, (epochs, restarts).
        val_loss: That of the held-out trials at the end, (restarts,).
        best: Which restart was kept.
        dispersion: Mean of $(y - \mu)^2 / \mathrm{Var}(y)$ over all trials: near 1 when codes
            leave exactly the noise. The gaussian's variance is estimated from second differences.
        warnings: What to beware of.
    """

    kernels: Tensor
    history: Tensor
    val_loss: Tensor
    best: int
    dispersion: float
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return dict(vars(self))


@dataclass(frozen=True)
class FitPlan:
    """How a fit runs; see `DUNLModel.fit`."""

    n_epochs: int
    lr: float
    batch_size: int
    val_fraction: float
    n_restarts: int
    init: str

    def __post_init__(self) -> None:
        one_of("init", self.init, ("data", "random"))
        for name in ("n_epochs", "batch_size", "n_restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def fit_kernels(
    model: "DUNLModel",
    signals: Float[Tensor, "batch unit time"],
    support: Tensor | None,
    plan: FitPlan,
    generator: torch.Generator | None,
) -> DUNLFitResult:
    """Fit kernels in place; see `DUNLModel.fit`."""
    n_trials = signals.shape[0]
    n_val = round(plan.val_fraction * n_trials)
    if not 0 <= plan.val_fraction < 1 or n_val >= n_trials:
        raise ValueError(
            f"val_fraction must leave a trial to fit on, got {plan.val_fraction} of {n_trials} "
            f"trials"
        )
    order = torch.randperm(n_trials, generator=generator).to(signals.device)
    training = _Trials(model, signals, support).rows(order[n_val:])
    judged = _Trials(model, signals, support).rows(order[:n_val]) if n_val else training
    weight = torch.nn.Parameter(_starts(training, plan, generator))
    history = _train(training, weight, plan, generator)
    with torch.no_grad():
        val_loss = judged.losses(weight)
        best = int(val_loss.argmin())
        model.weight.copy_(weight[best])
        return _result(_Trials(model, signals, support), history, val_loss, best)


@dataclass(frozen=True)
class _Trials:
    """Trials, and what kernels make of them."""

    model: "DUNLModel"
    signals: Tensor
    support: Tensor | None

    def rows(self, rows: Tensor) -> "_Trials":
        support = None if self.support is None else self.support[rows]
        return _Trials(self.model, self.signals[rows], support)

    def encoded(self, weight: Tensor) -> tuple[SparseProblem, Tensor]:
        """The problem of kernels (restarts, ...) on these trials, and its codes without a graph."""
        model = self.model
        kernels = unit_kernels(weight, nonneg=model.nonneg_kernels)
        folded = model.coder.fold(
            self.signals,
            kernels.flatten(0, -3),
            model.sparsity,
            baseline=model.baseline,
            support=self.support,
            n_restarts=weight.shape[0],
        )
        with torch.no_grad():
            return folded, model.coder.encode(folded)

    def losses(self, weight: Tensor) -> Float[Tensor, " restart"]:
        """The objective per sample of every restart.

        At its minimum over codes its slope in the kernels is the one with the codes held.
        """
        folded, codes = self.encoded(weight)
        objective = folded.objective(codes).reshape(codes.shape[0], weight.shape[0], -1)
        return objective.sum((0, 2)) / self.signals.numel()


def _starts(trials: _Trials, plan: FitPlan, generator: torch.Generator | None) -> Tensor:
    model = trials.model
    if plan.init == "random":
        shape = (plan.n_restarts, *model.weight.shape)
        first = torch.randn(shape, generator=generator).to(trials.signals)
        return unit_kernels(first.abs() if model.nonneg_kernels else first, nonneg=False)
    made = [
        start_from_data(model, trials.signals, trials.support, generator)
        for _ in range(plan.n_restarts)
    ]
    return torch.stack(made)


def _train(
    trials: _Trials, weight: torch.nn.Parameter, plan: FitPlan, generator: torch.Generator | None
) -> Float[Tensor, "epoch restart"]:
    model, n_trials = trials.model, len(trials.signals)
    optimizer = torch.optim.Adam([weight], lr=plan.lr)
    # The steps shrink to nothing, or the kernels would keep trembling at the end.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, plan.n_epochs)
    history = []
    for epoch in range(plan.n_epochs):
        if trials.support is None and epoch in {0, plan.n_epochs // 4, plan.n_epochs // 2}:
            _recentre(trials, weight)
        order = torch.randperm(n_trials, generator=generator).to(trials.signals.device)
        total = trials.signals.new_zeros(weight.shape[0])
        for rows in torch.split(order, plan.batch_size):
            optimizer.zero_grad()
            losses = trials.rows(rows).losses(weight)
            rough = unit_kernels(weight, nonneg=model.nonneg_kernels).diff(dim=-1).square().sum()
            torch.autograd.backward(losses.sum() + model.smoothness * rough)
            optimizer.step()
            total += losses.detach() * len(rows) / n_trials
        schedule.step()
        history.append(total)
    return torch.stack(history)


@torch.no_grad()
def _recentre(trials: _Trials, weight: torch.nn.Parameter) -> None:
    moved = recentred(*trials.encoded(weight)).reshape(weight.shape)
    weight.copy_(moved.clamp(min=0) + 1e-3 if trials.model.nonneg_kernels else moved)


def _result(trials: _Trials, history: Tensor, val_loss: Tensor, best: int) -> DUNLFitResult:
    model = trials.model
    folded, codes = trials.encoded(model.weight[None])
    drive, _, _ = folded.drive(codes)
    dispersion = _dispersion(model.coder.likelihood, folded.activity, drive)
    notes = [note for group in folded.kernels for note in _duplicates(group)]
    if dispersion < _NOISE_FLOOR:
        notes.append(
            f"the residual is {dispersion:.2f} of the noise: codes fit noise; raise sparsity"
        )
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=4)
    kernels = model.extract_factors()
    return DUNLFitResult(kernels, history, val_loss, best, dispersion, tuple(notes))


def _dispersion(likelihood: Likelihood, activity: Tensor, drive: Tensor) -> float:
    variance = likelihood.curvature(drive)
    if likelihood.name == "gaussian":
        # Second differences leave little of a smooth signal, and have 6 times the noise variance;
        # 1.4826 times the median of the size is the standard deviation of a normal variable.
        second = activity.diff(n=2, dim=-1)
        variance = (1.4826 * second.abs().median()).square() / 6
    tiny = torch.finfo(activity.dtype).tiny
    miss = activity - likelihood.mean(drive)
    return float((miss.square() / variance.clamp(min=tiny)).mean())


def _duplicates(kernels: Float[Tensor, "factor tap"]) -> list[str]:
    alike = shift_correlation(kernels, kernels).triu(1)
    return [
        f"kernels {i} and {j} are alike up to a shift (correlation {float(alike[i, j]):.2f}); "
        f"lower n_factors, or raise n_restarts"
        for i, j in (alike > _DUPLICATE).nonzero().tolist()
    ]
