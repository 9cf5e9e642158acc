"""Optimiser steps: several batches, in several processes, one gradient."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from neuros_neurofm.training._gradients import check_skipped, clip_gradient
from neuros_neurofm.training._metrics import RunningMeans
from neuros_neurofm.training._processes import Processes
from neuros_neurofm.training._step import TrainingStep

__all__: list[str] = []

Batch: TypeAlias = Mapping[str, Any]
_logger = logging.getLogger(__name__)


class Updates:
    """Applies the gradients of a run.

    Args:
        processes: Those of the run.
        step: The forward pass with its loss.
        module: What `processes.spread` made of it.
        optimizer: Over its parameters.
        scheduler: Stepped after every optimiser step.
        max_grad_norm: Bound of the gradient's 2-norm; None leaves it as it is.
    """

    def __init__(
        self,
        processes: Processes,
        step: TrainingStep,
        module: torch.nn.Module,
        optimizer: Optimizer,
        *,
        scheduler: LRScheduler | None,
        max_grad_norm: float | None,
    ) -> None:
        self.processes = processes
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.max_grad_norm = max_grad_norm
        self.n_steps = 0
        self.n_skipped = 0
        self._n_in_a_row = 0
        self._step = step
        self._module = module
        self._precision = processes.fabric.strategy.precision
        self._stepper = cast("Optimizer", processes.fabric.setup_optimizers(optimizer))

    def apply(
        self, batches: Sequence[Batch], own: Sequence[bool], means: RunningMeans
    ) -> Tensor | None:
        """Take one step over the batches of this process.

        Args:
            batches: On the device, masked.
            own: False for a batch that another process counts.
            means: Where the losses are added.

        Returns:
            The loss over all batches of all processes, shape (); None where the gradient was not
            finite and the step was skipped.
        """
        loss = self._step.loss
        counts = [
            {name: n * here for name, n in loss.counts(batch).items()}
            for batch, here in zip(batches, own, strict=True)
        ]
        totals = self.processes.sum(
            {name: torch.stack([part[name] for part in counts]).sum() for name in counts[0]}
        )
        self._stepper.zero_grad()
        values, results = [], []
        for k, (batch, count) in enumerate(zip(batches, counts, strict=True)):
            with self.processes.joined(self._module, last=k == len(batches) - 1):
                value = self._module(batch, count, totals)
                # Engines average over the processes; the shares are of the sum.
                n_processes = self.processes.world_size
                self.processes.fabric.backward(value * n_processes if n_processes > 1 else value)
            values.append(value.detach())
            results.append(loss.terms)
        if not self._update():
            return None
        for result, count in zip(results, counts, strict=True):
            means.add(result, count)
        return self.processes.sum({"loss": torch.stack(values).sum()})["loss"]

    def state_dict(self) -> dict[str, Any]:
        """Return the scaling of the loss, the schedule and the skipped steps."""
        return {
            "precision": self._precision.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "n_steps": self.n_steps,
            "n_skipped": self.n_skipped,
            "n_in_a_row": self._n_in_a_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` returned."""
        self._precision.load_state_dict(state["precision"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.n_steps = state["n_steps"]
        self.n_skipped = state["n_skipped"]
        self._n_in_a_row = state["n_in_a_row"]

    def _update(self) -> bool:
        """Change the parameters, unless the gradient is not finite."""
        self._precision.unscale_gradients(self.optimizer)
        if not clip_gradient(self.optimizer, self.max_grad_norm):
            if self._precision.state_dict():
                # Without gradients nothing moves, but the scale of the loss backs off.
                self._stepper.zero_grad()
                self._stepper.step()
            self._skip()
            return False
        self._stepper.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.n_steps += 1
        self._n_in_a_row = 0
        return True

    def _skip(self) -> None:
        self.n_skipped += 1
        self._n_in_a_row += 1
        _logger.warning("step skipped: the gradient after step %d is not finite", self.n_steps)
        check_skipped(self._n_in_a_row)
