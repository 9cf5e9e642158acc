"""The objectives of a run, weighed against each other."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuros_neurofm.losses import CombinedLoss, MultiTaskLossManager

__all__: list[str] = []


class BalancedLoss(CombinedLoss):
    """`CombinedLoss` whose tasks a `MultiTaskLossManager` weighs in training.

    The terms that are logged, and the validation, are of the tasks before learned weights: these
    change, and a loss on a moving scale would not tell which checkpoint is the best.

    Args:
        tasks: Objectives that the manager weighs.
        others: Objectives that bring weights of their own.
        method: As in `MultiTaskLossManager`.
        weights: Of some tasks, for `manual`; 1 for the others.
        shared: The parameters in whose gradient `gradnorm` compares the tasks.

    Raises:
        ValueError: Weights of no task, or for a method that finds its own.
    """

    def __init__(
        self,
        tasks: Sequence[nn.Module],
        others: Sequence[nn.Module],
        *,
        method: str,
        weights: Mapping[str, float],
        shared: Tensor,
    ) -> None:
        super().__init__([*tasks, *others])
        names = list(self.objectives)[: len(tasks)]
        unknown = sorted(set(weights) - set(names))
        if unknown:
            raise ValueError(f"loss_weights names {unknown}, the tasks of this run are {names}")
        given = {name: weights.get(name, 1.0) for name in names} if weights else None
        self.manager = MultiTaskLossManager(names, method, weights=given)
        # Kept in a tuple: registered here as well, a parameter of the model would be saved twice.
        self._shared = (shared,)

    def evaluate(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The values of the objectives, those of the tasks weighed."""
        values = super().evaluate(outputs, batch)
        learned = self.manager.balancing_method != "manual"
        if learned and not torch.is_grad_enabled():
            return values
        tasks = {name: values[name] for name in self.manager.task_names}
        if self.manager.balancing_method == "gradnorm":
            counts = self.counts(batch)
            present = {name: x for name, x in tasks.items() if counts[name] > 0}
            self.manager.compute_loss(present, self._shared)
            weights = self.manager.weights
            return values | {name: weights[name] * x for name, x in tasks.items()}
        # One at a time, so that each keeps its own number of targets.
        weighed = {name: self.manager.compute_loss({name: x})[0] for name, x in tasks.items()}
        return values | weighed
