"""Add the losses of several tasks with weights that are learned, balanced or given."""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, SupportsFloat

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_neurofm.losses._bounded import bounded
from neuros_neurofm.losses._likelihood import at_least_float32

__all__ = ["MultiTaskLossManager"]

_METHODS: Final = ("uncertainty", "gradnorm", "manual")
_FORMS: Final = ("kendall", "liebel")
# Largest change of a log weight in one call where all gradient norms are alike: how closely the
# weights settle, which tests/losses/test_multitask_loss.py holds.
_GRADNORM_STEP: Final = 0.01


class MultiTaskLossManager(nn.Module):
    r"""Weighted sum of task losses.

    `uncertainty` learns $s_i = \ln \sigma_i^2$ for each task, by the optimiser that gets these
    parameters: $\sum_i \frac12 e^{-s_i} L_i + \frac12 s_i$ (`kendall`, optimal at $s_i = \ln L_i$)
    or $\sum_i L_i / 2\sigma_i^2 + \ln(1 + \sigma_i^2)$ (`liebel`, never negative for losses that
    are not). `gradnorm` adds $\sum_i w_i L_i$ and, in every call in training mode, takes one
    gradient step of its own on $\sum_i |G_i - \bar G r_i^\alpha|$, where $G_i = w_i \|\nabla L_i\|$
    and $r_i$ is the task's $L_i / L_i(0)$ over the mean of these; the step is in $\ln w_i$ and in
    units of $\bar G$, and the weights sum to the number of tasks. `manual` adds $\sum_i w_i L_i$.

    A task that is absent from a call, or None, adds nothing and its weight is not changed. Where
    processes compute different losses, `gradnorm` weights differ between them.

    Args:
        task_names: At least one, all different.
        balancing_method: `uncertainty`, `gradnorm` or `manual`.
        weights: {task: weight >= 0} for every task, for `manual` only; 1 each by default.
        alpha: Strength >= 0 with which `gradnorm` favours the tasks that learn slowly.
        form: `kendall` or `liebel`, for `uncertainty`.
        log_var_bounds: Lowest and highest $s_i$, around 0, for `uncertainty`.

    Raises:
        ValueError: Names that are missing or repeated, an unknown method or form, weights that do
            not fit the tasks, are negative or belong to no `manual`, or an alpha or bounds out of
            range.
        TypeError: One string in place of several names.

    Examples:
        >>> import torch
        >>> manager = MultiTaskLossManager(["decode", "mask"], "manual", weights={"decode": 2.0,
        ...                                                                       "mask": 0.5})
        >>> total, parts = manager.compute_loss({"decode": torch.tensor(3.0), "mask": None})
        >>> float(total), {name: float(value) for name, value in parts.items()}
        (6.0, {'decode': 3.0})

    References:
        Kendall, A., Gal, Y. & Cipolla, R. (2018). Multi-task learning using uncertainty to weigh
        losses for scene geometry and semantics. CVPR. https://doi.org/10.1109/CVPR.2018.00781

        Liebel, L. & Koerner, M. (2018). Auxiliary tasks in multi-task learning.
        https://doi.org/10.48550/arXiv.1805.06334

        Chen, Z. et al. (2018). GradNorm: gradient normalization for adaptive loss balancing in deep
        multitask networks. ICML. https://doi.org/10.48550/arXiv.1711.02257
    """

    log_weights: Tensor
    initial_losses: Tensor
    manual_weights: Tensor

    def __init__(
        self,
        task_names: Sequence[str],
        balancing_method: str = "uncertainty",
        *,
        weights: Mapping[str, SupportsFloat] | None = None,
        alpha: SupportsFloat = 1.5,
        form: str = "kendall",
        log_var_bounds: tuple[SupportsFloat, SupportsFloat] = (-5.0, 5.0),
    ) -> None:
        names = _read_names(task_names)
        if balancing_method not in _METHODS:
            raise ValueError(
                f"balancing_method must be one of {', '.join(_METHODS)}, got {balancing_method!r}"
            )
        if form not in _FORMS:
            raise ValueError(f"form must be one of {', '.join(_FORMS)}, got {form!r}")
        if weights is not None and balancing_method != "manual":
            raise ValueError(
                f"weights belong to balancing_method 'manual', got {balancing_method!r}, which "
                "finds its own; leave weights out"
            )
        super().__init__()
        self.task_names = names
        self.balancing_method: str = balancing_method
        self.form: str = form
        self.alpha = float(alpha)
        if not 0.0 <= self.alpha < math.inf:
            raise ValueError(f"alpha must be a finite number >= 0, got {self.alpha}")
        self.log_var_bounds = _read_bounds(log_var_bounds)
        self._warned_of_negative = False
        if balancing_method == "uncertainty":
            # One parameter each: an optimiser leaves one without gradient alone, but moves an
            # entry of a vector by its momentum.
            self.log_vars = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in names)
        elif balancing_method == "gradnorm":
            self.register_buffer("log_weights", torch.zeros(len(names)))
            self.register_buffer("initial_losses", torch.full((len(names),), torch.nan))
        else:
            self.register_buffer("manual_weights", _read_weights(names, weights))

    @property
    def weights(self) -> dict[str, float]:
        """The factor of every task's loss in the total; reading it waits for the device."""
        with torch.no_grad():
            if self.balancing_method == "uncertainty":
                bound = [bounded(s, *self.log_var_bounds) for s in self.log_vars]
                factors = 0.5 * (-torch.stack(bound)).exp()
            elif self.balancing_method == "gradnorm":
                factors = self.log_weights.exp()
            else:
                factors = self.manual_weights
        return dict(zip(self.task_names, factors.tolist(), strict=True))

    def forward(
        self,
        task_losses: Mapping[str, Any],
        shared_parameters: Tensor | Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Do what `compute_loss` does, behind the hooks of a module.

        Args:
            task_losses: As for `compute_loss`.
            shared_parameters: As for `compute_loss`.

        Returns:
            As `compute_loss`.
        """
        return self.compute_loss(task_losses, shared_parameters)

    def compute_loss(
        self,
        task_losses: Mapping[str, Any],
        shared_parameters: Tensor | Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the losses of the tasks that are present.

        The losses are copied to the host once, to look for values that are not finite.

        Args:
            task_losses: {task: shape () or None}.
            shared_parameters: The parameters in whose gradient `gradnorm` compares the tasks,
                usually those of the last layer that they share; `gradnorm` needs them in training
                mode.

        Returns:
            The total, shape (), and the detached loss of every present task as it came in, {task:
            shape ()}. Without any task the total is 0 and has a gradient.

        Raises:
            KeyError: A task that is not in `task_names`.
            TypeError: A loss that is not a tensor.
            ValueError: A loss that is not a scalar or not finite, one below 0 under `gradnorm`
                with alpha > 0, or `gradnorm` in training without `shared_parameters`.

        Warns:
            UserWarning: Once, at the first negative loss under `uncertainty`, which would be
                weighted ever more, up to the bound.
        """
        losses = self._read_losses(task_losses)
        if not losses:
            device = next((t.device for t in (*self.parameters(), *self.buffers())), None)
            return torch.zeros((), device=device, requires_grad=True), {}
        self._check_values(losses)
        rows = [self.task_names.index(name) for name in losses]
        stacked = torch.stack(list(losses.values()))
        if self.balancing_method == "uncertainty":
            s = torch.stack([bounded(self.log_vars[row], *self.log_var_bounds) for row in rows])
            total = _uncertainty_total(stacked, s, form=self.form)
        elif self.balancing_method == "gradnorm":
            total = (self.log_weights[rows].exp() * stacked).sum()
            if self.training and torch.is_grad_enabled():
                norms = _gradient_norms(losses.values(), _read_shared(shared_parameters))
                self._rebalance(rows, stacked.detach(), norms)
        else:
            total = (self.manual_weights[rows] * stacked).sum()
        return total, {name: loss.detach() for name, loss in losses.items()}

    def get_extra_state(self) -> dict[str, list[str]]:
        """Save the order of the tasks with the state.

        Returns:
            {"task_names": the names in order}.
        """
        return {"task_names": list(self.task_names)}

    def set_extra_state(self, state: dict[str, list[str]]) -> None:
        """Refuse the state of other tasks, whose weights would go to the wrong ones.

        Args:
            state: What `get_extra_state` returned.

        Raises:
            ValueError: Other tasks or another order.
        """
        if state["task_names"] != list(self.task_names):
            raise ValueError(
                f"the state is of the tasks {state['task_names']}, this manager has "
                f"{list(self.task_names)}; create it with the same names in the same order"
            )

    def _read_losses(self, task_losses: Mapping[str, Any]) -> dict[str, Tensor]:
        unknown = sorted(set(task_losses) - set(self.task_names))
        if unknown:
            raise KeyError(f"unknown tasks {unknown}; the manager has {list(self.task_names)}")
        losses = {}
        for name, loss in task_losses.items():
            if loss is None:
                continue
            if not isinstance(loss, Tensor):
                raise TypeError(
                    f"the loss of task {name!r} must be a tensor or None, got "
                    f"{type(loss).__name__}; leave the graph of the loss attached"
                )
            if loss.ndim != 0:
                raise ValueError(
                    f"the loss of task {name!r} must be a scalar, got shape {tuple(loss.shape)}"
                )
            losses[name] = at_least_float32(loss)
        return losses

    def _check_values(self, losses: Mapping[str, Tensor]) -> None:
        values = torch.stack([loss.detach() for loss in losses.values()]).tolist()
        for name, value in zip(losses, values, strict=True):
            if not math.isfinite(value):
                raise ValueError(
                    f"the loss of task {name!r} must be finite, got {value}; leave the task out "
                    "of this step or lower the learning rate"
                )
            if value < 0:
                self._meet_negative(name, value)

    def _meet_negative(self, name: str, value: float) -> None:
        if self.balancing_method == "gradnorm" and self.alpha > 0:
            raise ValueError(
                f"gradnorm with alpha > 0 compares losses with their first value and needs them "
                f">= 0, got {value} for task {name!r}; set alpha to 0 or choose another method"
            )
        if self.balancing_method == "uncertainty" and not self._warned_of_negative:
            self._warned_of_negative = True
            warnings.warn(
                f"the loss of task {name!r} is negative ({value}): its learned weight will grow to "
                "the bound; use a loss that is >= 0 or another balancing_method",
                UserWarning,
                stacklevel=4,
            )

    def _rebalance(self, rows: list[int], losses: Tensor, norms: Tensor) -> None:
        with torch.no_grad():
            # A first loss of 0, of a batch without targets, is nothing to compare with.
            fresh = self.initial_losses[rows].isnan() & (losses > 0)
            first = torch.where(fresh, losses.to(self.initial_losses), self.initial_losses[rows])
            self.initial_losses[rows] = first
            rates = torch.where(first.isnan(), 1.0, losses / first)
            log_w = self.log_weights[rows]
            self.log_weights[rows] = _gradnorm_step(log_w, norms.to(log_w), rates, self.alpha)


def _uncertainty_total(
    losses: Float[Tensor, " task"], s: Float[Tensor, " task"], *, form: str
) -> Float[Tensor, ""]:
    # ln(1 + sigma^2) = softplus(ln sigma^2)
    regulariser = 0.5 * s if form == "kendall" else nn.functional.softplus(s)
    return (0.5 * (-s).exp() * losses + regulariser).sum()


def _gradient_norms(
    losses: Iterable[Float[Tensor, ""]], shared: Sequence[Tensor]
) -> Float[Tensor, " task"]:
    norms = []
    for loss in losses:
        # A loss without a graph, or one that the parameters do not enter, has gradient 0.
        grads: Sequence[Tensor | None] = (
            torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
            if loss.requires_grad
            else ()
        )
        parts = [at_least_float32(g).norm().to(loss) for g in grads if g is not None]
        norms.append(torch.stack(parts).norm() if parts else torch.zeros_like(loss))
    return torch.stack(norms).detach()


def _gradnorm_step(
    log_w: Float[Tensor, " task"],
    norms: Float[Tensor, " task"],
    rates: Float[Tensor, " task"],
    alpha: float,
) -> Float[Tensor, " task"]:
    """Take the step of Chen et al., eq. 2, in the logarithm of the weights, keeping their sum."""
    G = log_w.exp() * norms
    tiny = torch.finfo(G.dtype).tiny
    relative = G / G.mean().clamp(min=tiny)
    target = (rates / rates.mean().clamp(min=tiny)) ** alpha
    moved = log_w - _GRADNORM_STEP * (relative - target).sign() * relative
    moved = moved + log_w.logsumexp(0) - moved.logsumexp(0)
    # An overflowed gradient (float16 under a scaler) would stay in the weights for ever.
    return torch.where(moved.isfinite().all(), moved, log_w)


def _read_names(task_names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(task_names, str):
        raise TypeError(f"task_names must be several names, got {task_names!r}; put it in a list")
    names = tuple(task_names)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"task_names must be at least one name, all different, got {list(names)}")
    return names


def _read_bounds(bounds: tuple[SupportsFloat, SupportsFloat]) -> tuple[float, float]:
    low, high = float(bounds[0]), float(bounds[1])
    # The parameters start at 0.
    if not -math.inf < low <= 0.0 <= high < math.inf or low == high:
        raise ValueError(
            f"log_var_bounds must be finite, increasing and around 0, got ({low}, {high})"
        )
    return low, high


def _read_weights(names: Sequence[str], weights: Mapping[str, SupportsFloat] | None) -> Tensor:
    if weights is None:
        return torch.ones(len(names))
    if set(weights) != set(names):
        raise ValueError(f"weights must name the tasks {list(names)}, got {sorted(weights)}")
    values = [float(weights[name]) for name in names]
    if not all(0.0 <= value < math.inf for value in values):
        raise ValueError(f"weights must be finite numbers >= 0, got {dict(weights)}")
    return torch.tensor(values)


def _read_shared(shared_parameters: Tensor | Sequence[Tensor] | None) -> list[Tensor]:
    if isinstance(shared_parameters, Tensor):
        return [shared_parameters]
    if not shared_parameters:
        raise ValueError(
            "gradnorm in training mode needs shared_parameters, got none; pass the parameters of "
            "the last layer that all tasks share, or call eval() first"
        )
    return list(shared_parameters)
