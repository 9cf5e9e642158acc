"""What a model loses when an activation becomes its reconstruction, zero or its mean."""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

from torch import Tensor, nn

from neuros_mechint.activations import Edit, SiteLike, Splice, Zero, run
from neuros_mechint.activations._inputs import count_rows
from neuros_mechint.sae._rows import Coding, ModelBatch, model_batches

__all__ = ["LossRecovery", "bind_metric"]


class LossRecovery:
    """Means of a metric over the inputs, with and without edits of a site."""

    def __init__(
        self, coder: Coding, model: nn.Module, site: SiteLike, metric: Callable[..., Tensor]
    ) -> None:
        self._coder, self._model, self._site = coder, model, site
        self._metric = bind_metric(metric)
        self._sums: dict[str, tuple[float, int]] = {}

    def update(self, batch: ModelBatch) -> None:
        """Run a batch on reconstructions and without the site."""
        coder = self._coder
        self._add("clean", batch, batch.output)
        self._run("sae", batch, Splice(lambda x: coder.decode(coder.encode(x))))
        self._run("zero", batch, Zero())

    def ablate(self, data: Any, mean: Tensor, batch_size: int) -> None:
        """Run the data once more with the site at its mean, known only after the first pass."""
        for batch in model_batches(self._model, data, self._site, batch_size, whole=False):
            self._run("mean", batch, lambda x: mean.to(x).expand_as(x))
        if self._sums.get("mean", (0.0, 0))[1] != self._sums["clean"][1]:
            raise ValueError("data gave other batches when they were read a second time")

    def values(self) -> Mapping[str, float]:
        """Share of the loss that reconstructions recover, beside zero and beside the mean."""
        return {
            "loss_recovered": self._recovered("zero"),
            "loss_recovered_mean": self._recovered("mean"),
        }

    def _run(self, name: str, batch: ModelBatch, edit: Edit) -> None:
        args, kwargs = batch.arguments
        output = run(self._model, *args, edits={self._site: edit}, **kwargs).output
        self._add(name, batch, output)

    def _add(self, name: str, batch: ModelBatch, output: Any) -> None:
        value = self._metric(output, batch).double()
        n = count_rows(batch.arguments) if value.ndim == 0 else value.numel()
        total, count = self._sums.get(name, (0.0, 0))
        added = float(value) * n if value.ndim == 0 else float(value.sum())
        self._sums[name] = (total + added, count + n)

    def _recovered(self, ablated: str) -> float:
        worst, clean, coded = (
            self._sums[name][0] / self._sums[name][1] for name in (ablated, "clean", "sae")
        )
        if abs(worst - clean) <= 1e-8 * max(abs(worst), abs(clean)):
            raise ValueError(
                f"the metric is {clean:g} as it is and with the site set to its {ablated}: a site "
                "that does not matter has no loss to recover"
            )
        return (worst - coded) / (worst - clean)


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
