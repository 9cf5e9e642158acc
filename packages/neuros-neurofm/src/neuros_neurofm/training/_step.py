"""The forward pass and its loss as one module, so that an engine can wrap both together."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from neuros_neurofm.losses import CombinedLoss
from neuros_neurofm.training._gradients import weighted_sum

__all__: list[str] = []


class TrainingStep(nn.Module):
    """Batch in, loss out.

    What wraps it (DDP) looks for unused parameters from the loss, not from outputs that no
    objective reads; and parameters of the loss are trained with those of the model.

    Args:
        model: With a method `forward_batch`.
        loss: Its objectives.
        autocast: Context of the forward pass; the loss is computed outside, in float32.
        compiled: Compile the model's forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: CombinedLoss,
        autocast: Callable[[], AbstractContextManager[Any]],
        *,
        compiled: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self._autocast = autocast
        forward: Any = model.forward_batch
        self._forward = torch.compile(forward) if compiled else forward

    def forward(
        self,
        batch: Mapping[str, Any],
        counts: Mapping[str, Tensor],
        totals: Mapping[str, Tensor],
    ) -> Tensor:
        """The loss of one batch as its share of the loss over all batches of an optimiser step."""
        return weighted_sum(self.terms(batch), counts, totals)

    def terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The values of the objectives, apart."""
        with self._autocast():
            outputs = self._forward(batch)
        return self.loss.evaluate(outputs, batch)
