"""Which single feature the model depends on in rows that their concept's features miss."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from neuros_mechint.activations import SiteLike, run
from neuros_mechint.sae._absorption import LEAST_COSINE, MissedRows
from neuros_mechint.sae._parts import rows_of
from neuros_mechint.sae._plan import Plan
from neuros_mechint.sae._recovery import bind_metric, metric_sum
from neuros_mechint.sae._rows import ModelBatch, model_batches

__all__ = ["AblationEffects"]

_STEPS = 8


class AblationEffects:
    r"""Effects of features on a metric, in rows of which each is changed alone.

    The effect of feature i is the part of the metric's change that is due to it when the row's
    features all go from their values to 0, the coder's error staying: integrated gradients, which
    Chanin 2024 takes in place of one forward per feature.

    Args:
        plan: How the coder works.
        model: The model.
        sites: Of the parts of the coder.
        metric: Of the output, differentiable; larger is worse.
        margin: Least lead of the largest effect over the second, in the unit of the metric.
    """

    def __init__(
        self,
        plan: Plan,
        model: nn.Module,
        sites: Sequence[SiteLike],
        metric: Callable[..., Tensor],
        margin: float,
    ) -> None:
        self._plan, self._model, self._sites = plan, model, sites
        self._metric = bind_metric(metric)
        self._margin = margin
        nodes, weights = np.polynomial.legendre.leggauss(_STEPS)
        self._nodes, self._weights = (nodes + 1) / 2, weights / 2

    def absorbed(
        self, data: Any, missed: MissedRows, output: int, batch_size: int
    ) -> list[Bool[Tensor, "_"]]:
        """Which missed rows of each class depend most, and clearly, on a feature like the probe."""
        verdicts = [torch.zeros(len(one.rows), dtype=torch.bool) for one in missed.classes]
        cosines = [missed.cosines(c) for c in range(len(missed.classes))]
        start = 0
        for batch in model_batches(self._model, data, self._sites, batch_size, whole=False):
            n_rows = len(rows_of(batch.values)[0])
            for c, one in enumerate(missed.classes):
                here = ((one.rows >= start) & (one.rows < start + n_rows)).nonzero().flatten()
                for chosen in _apart(one.rows[here] - start, batch, self._plan.targets[output]):
                    effects = self._effects(batch, one.rows[here][chosen] - start, output)
                    best = effects.topk(min(2, effects.shape[1]), dim=1)
                    # Features that are off have no effect, so the second is never below 0.
                    second = best.values[:, 1:].sum(1).clamp(min=0)
                    clear = (best.values[:, 0] > 0) & (best.values[:, 0] - second >= self._margin)
                    along = cosines[c][best.indices[:, 0]] >= LEAST_COSINE
                    verdicts[c][here[chosen]] = clear & along
            start += n_rows
        return verdicts

    def _effects(
        self, batch: ModelBatch, rows: Int64[Tensor, "n"], output: int
    ) -> Float[Tensor, "n feature"]:
        parts = rows_of(batch.values)
        f = self._plan.encode(tuple(part[rows.to(part.device)] for part in parts)).detach()
        decoded = self._plan.decode(f)[output].detach()
        total = torch.zeros_like(f, dtype=torch.float64)
        args, kwargs = batch.arguments
        site = self._sites[self._plan.targets[output]]
        for node, weight in zip(self._nodes.tolist(), self._weights.tolist(), strict=True):
            leaf = (node * f).requires_grad_()
            with torch.enable_grad():
                change = self._plan.decode(leaf)[output] - decoded
                edit = _Shift(rows, change)
                found = run(self._model, *args, edits={site: edit}, **kwargs).output
                value, _ = metric_sum(self._metric(found, batch), batch)
                if not value.requires_grad:
                    raise ValueError(
                        "absorption_margin= needs a metric with a gradient at the site, such as a "
                        "cross-entropy; this one has none"
                    )
                (gradient,) = torch.autograd.grad(value, leaf)
            total -= weight * gradient.double()
        return (total * f).cpu()


class _Shift:
    """Edit that adds to some rows of an activation."""

    def __init__(self, rows: Int64[Tensor, "n"], change: Float[Tensor, "n latent"]) -> None:
        self._rows, self._change = rows, change

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        change = self._change.to(dtype=x.dtype)
        return flat.index_add(0, self._rows.to(x.device), change).reshape(x.shape)


def _apart(
    rows: Int64[Tensor, "n"], batch: ModelBatch, place: int
) -> Iterator[Int64[Tensor, "chosen"]]:
    """Groups of rows that belong to different inputs, so that no change meets another."""
    value = batch.values[place]
    per_input = value[0].numel() // value.shape[-1] if value.ndim > 1 else 1
    owner = rows // per_input
    left = torch.arange(len(rows))
    while len(left):
        _, first = np.unique(owner[left].numpy(), return_index=True)
        yield left[first]
        left = left[np.setdiff1d(np.arange(len(left)), first)]
