"""An objective as the risk of a mixture of domains."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from neuros_neurofm.training._domain_weights import Indices, Shares

__all__: list[str] = []

Cells: TypeAlias = Callable[[Mapping[str, Any]], Indices]
# Outputs that have no axis of rows.
_SHARED = ("times",)


class WeightedObjective(nn.Module):
    r"""Estimates $\sum_k w_k E_k[L]$ from a batch, $\sum_k \frac{w_k}{q_k} \frac{n_k}{n} \bar L_k$.

    $\bar L_k$ is the objective on the rows of domain k (a mean over their targets), $n_k$ their
    number and $q_k$ the probability with which a row is of domain k. Unbiased where every row has
    equally many targets.

    Args:
        objective: As `CombinedLoss` takes them.
        cells: Index of every row's weight.
    """

    def __init__(self, objective: Callable[..., Tensor], cells: Cells) -> None:
        super().__init__()
        self.objective = objective
        self.cells = cells
        self.name = str(getattr(objective, "name", type(objective).__name__))
        self.weight = getattr(objective, "weight", 1.0)
        self.ratios: Shares = np.empty(0)

    def forward(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        """The estimate of one batch, shape ()."""
        cells = self.cells(batch)
        reads: str | None = getattr(self.objective, "reads", None)
        parts = []
        for k in np.unique(cells):
            rows = torch.from_numpy(np.flatnonzero(cells == k))
            read = _rows(outputs if reads is None else {reads: outputs[reads]}, rows, len(cells))
            value = (
                self.objective(read, _rows(batch, rows, len(cells)))
                if reads is None
                else self.objective(read[reads])
            )
            parts.append(value * float(self.ratios[k]) * (len(rows) / len(cells)))
        return torch.stack(parts).sum()

    def count(self, batch: Mapping[str, Any]) -> Tensor:
        """The rows that the mean runs over, shape ()."""
        return torch.tensor(len(self.cells(batch)))


def _rows(values: Mapping[str, Any], rows: Tensor, n: int) -> dict[str, Any]:
    """The chosen rows of all tensors that have an axis of rows."""
    return {
        name: value if name in _SHARED and isinstance(value, Tensor) else _take(value, rows, n)
        for name, value in values.items()
    }


def _take(value: Any, rows: Tensor, n: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _take(part, rows, n) for key, part in value.items()}
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == n:
        return value[rows.to(value.device)]
    return value
