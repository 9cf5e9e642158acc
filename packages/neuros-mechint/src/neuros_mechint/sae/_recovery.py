"""What a model loses when an activation becomes its reconstruction, zero or its mean."""

from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import Any

from torch import Tensor, nn

from neuros_mechint.activations import Edit, Replace, SiteLike, Zero, run
from neuros_mechint.activations._inputs import count_rows
from neuros_mechint.sae._parts import rows_of
from neuros_mechint.sae._plan import Plan
from neuros_mechint.sae._rows import ModelBatch, model_batches

__all__ = ["LossRecovery", "bind_metric", "metric_sum"]


class LossRecovery:
    """Means of a metric over the inputs, with and without edits of each output's site."""

    def __init__(
        self,
        plan: Plan,
        model: nn.Module,
        sites: Sequence[SiteLike],
        metric: Callable[..., Tensor],
    ) -> None:
        self._plan, self._model, self._sites = plan, model, sites
        self._metric = bind_metric(metric)
        self._sums: dict[tuple[str, int], tuple[float, int]] = {}

    def update(self, batch: ModelBatch) -> None:
        """Run a batch on reconstructions and without the sites."""
        self._add(("clean", 0), batch, batch.output)
        found = self._plan.decode(self._plan.encode(rows_of(batch.values)))
        for k, (place, rows) in enumerate(zip(self._plan.targets, found, strict=True)):
            value = batch.values[place]
            self._run(("coded", k), batch, Replace(rows.reshape(value.shape).to(value.dtype)))
            self._run(("zero", k), batch, Zero())

    def ablate(self, data: Any, means: Sequence[Tensor], batch_size: int) -> None:
        """Run the data once more with a site at its mean, known only after the first pass."""
        for batch in model_batches(self._model, data, self._sites, batch_size, whole=False):
            for k, mean in enumerate(means):
                self._run(("mean", k), batch, _Constant(mean))
        if self._sums.get(("mean", 0), (0.0, 0))[1] != self._sums["clean", 0][1]:
            raise ValueError("data gave other batches when they were read a second time")

    def values(self, output: int) -> dict[str, float]:
        """Share of the loss that reconstructions recover, beside zero and beside the mean."""
        return {
            "loss_recovered": self._recovered("zero", output),
            "loss_recovered_mean": self._recovered("mean", output),
        }

    def _run(self, name: tuple[str, int], batch: ModelBatch, edit: Edit) -> None:
        args, kwargs = batch.arguments
        site = self._sites[self._plan.targets[name[1]]]
        self._add(name, batch, run(self._model, *args, edits={site: edit}, **kwargs).output)

    def _add(self, name: tuple[str, int], batch: ModelBatch, output: Any) -> None:
        added, n = metric_sum(self._metric(output, batch).double(), batch)
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = (total + float(added), count + n)

    def _recovered(self, ablated: str, output: int) -> float:
        worst, clean, coded = (
            self._sums[name][0] / self._sums[name][1]
            for name in ((ablated, output), ("clean", 0), ("coded", output))
        )
        if abs(worst - clean) <= 1e-8 * max(abs(worst), abs(clean)):
            raise ValueError(
                f"the metric is {clean:g} as it is and with the site set to its {ablated}: a site "
                "that does not matter has no loss to recover"
            )
        return (worst - coded) / (worst - clean)


class _Constant:
    """Edit that puts one vector in the place of every row."""

    def __init__(self, row: Tensor) -> None:
        self._row = row

    def __call__(self, x: Tensor) -> Tensor:
        return self._row.to(x).expand_as(x)


def metric_sum(value: Tensor, batch: ModelBatch) -> tuple[Tensor, int]:
    """Sum of a metric over the rows of a batch, and their number; a scalar is their mean."""
    n = count_rows(batch.arguments) if value.ndim == 0 else value.numel()
    return (value * n if value.ndim == 0 else value.sum()), n


def bind_metric(metric: Callable[..., Tensor]) -> Callable[[Any, ModelBatch], Tensor]:
    """Metric of an output; one that needs two arguments is also given the batch."""
    kinds = {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}
    needed = [
        p for p in signature(metric).parameters.values() if p.kind in kinds and p.default is p.empty
    ]

    def value(output: Any, batch: ModelBatch) -> Tensor:
        found = metric(output, batch.batch) if len(needed) == 2 else metric(output)
        if not isinstance(found, Tensor):
            raise TypeError(f"metric needs to return a tensor, got {type(found).__name__}")
        return found

    return value
