"""Activations of the last data set, kept while nothing that they depend on has changed."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuros_mechint.activations import Site
from neuros_mechint.activations.cache import version_of
from neuros_mechint.neurons._gathering import Gathered, Pool, gather

__all__ = ["Kept"]


class Kept:
    """What was gathered last, and from what."""

    def __init__(self) -> None:
        self._last: tuple[Any, tuple[Any, ...], Gathered] | None = None

    def rows(
        self,
        model: nn.Module,
        dataset: Any,
        site: Site,
        *,
        input_key: str,
        pool: Pool,
        device: torch.device | str | None,
    ) -> Gathered:
        """Gather a data set, or return it when it and the model are those of the last time.

        Raises:
            ValueError: When activations are not finite, or as `gather`.
        """
        state = (site, pool, input_key, *_fingerprint(model))
        if self._last is None or self._last[0] is not dataset or self._last[1] != state:
            gathered = gather(model, dataset, site, input_key=input_key, pool=pool, device=device)
            if not np.isfinite(gathered.activations).all():
                raise ValueError(f"activations at '{site}' are not all finite")
            self._last = dataset, state, gathered
        return self._last[2]


def _fingerprint(model: nn.Module) -> tuple[Any, ...]:
    """What tells whether a model is still the one that was run."""
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    with torch.no_grad():
        # Optimizers count up the version; an assignment to .data shows in the sum alone.
        marks = [(version_of(t), t.sum().item()) for t in tensors if not t.is_inference()]
    return (*(module.training for module in model.modules()), *marks)
