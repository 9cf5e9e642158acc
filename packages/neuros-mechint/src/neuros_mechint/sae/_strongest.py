"""The inputs that drive some features most, kept while a data set passes by once."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["FeatureRecord", "StrongestInputs"]


class FeatureRecord(NamedTuple):
    """What one feature did on a data set.

    Attributes:
        inputs: The inputs that drive it most, strongest first.
        rows: Their numbers in the data set, shape (n,).
        positions: Where in each of them the feature peaks, shape (n, axes).
        peaks: Its activation there, shape (n,).
        traces: Its activation at every position of each of them, shape (n, ...).
        density: Share of positions at which it is active.
        maximum: Largest activation.
        mean_when_active: Mean over the positions at which it is active, NaN when there are none.
    """

    inputs: tuple[Tensor, ...]
    rows: Tensor
    positions: Tensor
    peaks: Tensor
    traces: Tensor
    density: float
    maximum: float
    mean_when_active: float


class _Held(NamedTuple):
    """One input and the activations of the chosen features in it, (positions, feature)."""

    input: Tensor
    traces: Tensor


class StrongestInputs:
    """Running list of the `top_k` inputs of each of some features."""

    def __init__(self, n_features: int, top_k: int) -> None:
        self._top_k = top_k
        self._peaks = torch.empty(0, n_features)
        self._rows = torch.empty(0, n_features, dtype=torch.int64)
        self._held: dict[int, _Held] = {}
        self._shapes: dict[int, torch.Size] = {}
        self._n_inputs = self._n_positions = 0
        self._active = torch.zeros(n_features, dtype=torch.int64)
        self._total = torch.zeros(n_features, dtype=torch.float64)

    @property
    def n_inputs(self) -> int:
        """Inputs so far."""
        return self._n_inputs

    def update(self, inputs: Tensor, f: Float[Tensor, "batch *positions feature"]) -> None:
        """Take in a batch of inputs and the activations of the features in them."""
        traces = f.reshape(len(f), -1, f.shape[-1]).float().cpu()
        self._active += (traces > 0).sum((0, 1))
        self._total += traces.sum((0, 1), dtype=torch.float64)
        self._n_positions += traces.shape[0] * traces.shape[1]
        numbers = torch.arange(self._n_inputs, self._n_inputs + len(f))
        self._n_inputs += len(f)
        rows = torch.cat([self._rows, numbers[:, None].expand(-1, f.shape[-1])])
        peaks = torch.cat([self._peaks, traces.amax(1)])
        # A stable sort: of two equal inputs the earlier one stays, however the data are cut.
        order = peaks.argsort(dim=0, descending=True, stable=True)[: self._top_k]
        self._peaks, self._rows = peaks.gather(0, order), rows.gather(0, order)
        self._keep(inputs.detach().cpu(), traces, f.shape[1:-1], int(numbers[0]))

    def record(self, feature: int) -> FeatureRecord:
        """Return what was seen of one of the features."""
        peaks = self._peaks[:, feature]
        kept = peaks > 0
        rows = self._rows[kept, feature]
        held = [self._held[int(row)] for row in rows]
        shapes = [self._shapes[int(row)] for row in rows]
        traces = [h.traces[:, feature].reshape(s) for h, s in zip(held, shapes, strict=True)]
        where = [
            torch.stack(torch.unravel_index(trace.argmax(), trace.shape))
            if trace.ndim
            else torch.zeros(0, dtype=torch.int64)
            for trace in traces
        ]
        active = int(self._active[feature])
        return FeatureRecord(
            inputs=tuple(h.input for h in held),
            rows=rows,
            positions=torch.stack(where) if where else torch.zeros(0, 0, dtype=torch.int64),
            peaks=peaks[kept],
            traces=_stacked(traces),
            density=active / self._n_positions,
            maximum=float(peaks.max()) if active else 0.0,
            mean_when_active=float(self._total[feature]) / active if active else float("nan"),
        )

    def _keep(
        self,
        inputs: Tensor,
        traces: Float[Tensor, "batch positions feature"],
        shape: torch.Size,
        first: int,
    ) -> None:
        """Hold the inputs that are among the strongest, let go of the others."""
        wanted = set(self._rows[self._peaks > 0].tolist())
        for row in wanted:
            if row >= first:
                # Copies: a view would hold the whole batch in memory.
                self._held[row] = _Held(inputs[row - first].clone(), traces[row - first].clone())
                self._shapes[row] = shape
        self._held = {row: held for row, held in self._held.items() if row in wanted}
        self._shapes = {row: self._shapes[row] for row in self._held}


def _stacked(traces: list[Tensor]) -> Tensor:
    """Stack traces; shorter ones are filled up with NaN."""
    if not traces:
        return torch.zeros(0)
    if len({trace.shape for trace in traces}) == 1:
        return torch.stack(traces)
    sizes = [max(trace.shape[axis] for trace in traces) for axis in range(traces[0].ndim)]
    full = torch.full((len(traces), *sizes), float("nan"))
    for k, trace in enumerate(traces):
        places: tuple[slice, ...] = tuple(slice(size) for size in trace.shape)
        full[k][places] = trace
    return full
