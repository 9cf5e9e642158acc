"""Bring the state at the end of a window together with what the animal did there."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuros_neurofm.losses import TriModalContrastiveLoss

__all__ = ["BehaviorContrast"]

_DIM = 128


class BehaviorContrast(nn.Module):
    """InfoNCE between the contrastive output and an embedding of the last target of each row.

    Rows of the same label are positives of each other.

    Args:
        width: Number of variables, or of labels.
        labels: Whether targets are labels.
        weight: Factor of the loss, >= 0.
    """

    name = "contrastive"

    def __init__(self, width: int, *, labels: bool, weight: float) -> None:
        super().__init__()
        self.labels = labels
        self.weight = weight
        self.embed: nn.Module = (
            nn.Embedding(width, _DIM)
            if labels
            else nn.Sequential(nn.Linear(width, _DIM), nn.GELU(), nn.Linear(_DIM, _DIM))
        )
        self.contrast = TriModalContrastiveLoss()

    def forward(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        """The weighted loss, shape (); 0 where fewer than two rows have a target."""
        neural = outputs["contrastive"]
        rows, last = self._last(batch)
        if len(rows) < 2:
            nothing: Tensor = 0.0 * neural.sum()
            return nothing
        target = batch["behavior"][rows, last]
        loss, _ = self.contrast(
            neural[rows], self.embed(target), stimulus_ids=target if self.labels else None
        )
        weighted: Tensor = self.weight * loss
        return weighted

    def count(self, batch: Mapping[str, Any]) -> Tensor:
        """Rows with a target."""
        rows, _ = self._last(batch)
        return torch.tensor(len(rows))

    @staticmethod
    def _last(batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Rows that have a target, and where the last one stands."""
        mask: Tensor | None = batch.get("behavior_mask")
        if mask is None:
            nothing = torch.zeros(0, dtype=torch.long)
            return nothing, nothing
        rows = mask.any(dim=1).nonzero().squeeze(1)
        back = mask.flip(1).to(torch.uint8).argmax(dim=1)
        return rows, mask.shape[1] - 1 - back[rows]
