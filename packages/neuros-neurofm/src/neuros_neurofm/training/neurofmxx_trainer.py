"""Train on a weighted mixture of sources."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, Unpack

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor, nn

from neuros_core.domains import SourceWeights
from neuros_neurofm.training._domain_weights import Indices
from neuros_neurofm.training._settings import TrainerSettings
from neuros_neurofm.training._weighting import Schedule, Weighting
from neuros_neurofm.training.trainer import MultiModalTrainer

__all__ = ["DomainWeightedTrainer"]

Weights: TypeAlias = SourceWeights | Mapping[str, float] | ArrayLike


class DomainWeightedTrainer(MultiModalTrainer):
    r"""`MultiModalTrainer` whose expected loss is $\sum_s w_s E_s[L]$ over the sources s.

    With `mode="importance"` the loader is read as it is and the rows of source s count $w_s / q_s$
    times, $q_s$ the share of its samples in the data: no sample is drawn more often than any other,
    but a small source with a large weight has noisy gradients. With `mode="sampling"` the samples
    are drawn with the weights. Both have the same expected gradient, where every row has equally
    many targets.

    Args:
        model: As in `MultiModalTrainer`.
        train_loader: As there; for `sampling` a `DataLoader`, whose sampler is replaced. Batches
            carry `source`, the number of each row's source.
        source_weights: Weight of every source: a mapping {name: weight} or `SourceWeights` (their
            order numbers the sources), or (source,) numbers on the simplex; or a function of the
            epoch that returns them, such as `ThreePhaseCurriculum.weights_at`.
        source_ids: Source of every sample of the loader's data set, numbers or names.
        mode: See above.
        loss: A `CombinedLoss` or one objective.
        settings: The other arguments of `MultiModalTrainer`.

    Raises:
        ValueError: Weights off the simplex (1e-6), ids without a weight, a source with a positive
            weight and no sample, or an unknown mode.
        TypeError: `sampling` of a loader that is no `DataLoader` with a batch size.

    Examples:
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> from neuros_neurofm.losses import BehaviorLoss
        >>> class Level(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.level = torch.nn.Parameter(torch.zeros(()))
        ...     def forward_batch(self, batch):
        ...         return {"decoder": self.level.expand(batch["behavior"].shape)}
        >>> rows = [{"behavior": torch.full((1, 1), 2.0 * s), "source": s} for s in (0, 0, 0, 1)]
        >>> model = Level()
        >>> trainer = DomainWeightedTrainer(
        ...     model, DataLoader(rows, 4), {"a": 0.5, "b": 0.5}, [0, 0, 0, 1],
        ...     loss=BehaviorLoss(), optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        ...     max_grad_norm=None)
        >>> history = trainer.fit(1)
        >>> model.level.item()  # the mean of the sources' levels 0 and 2, not of the rows
        1.0

    References:
        Shimodaira (2000). Improving predictive inference under covariate shift by weighting the
        log-likelihood function. J. Stat. Plan. Inference 90.
        https://doi.org/10.1016/S0378-3758(00)00115-4
    """

    def __init__(
        self,
        model: nn.Module,
        train_loader: Iterable[Mapping[str, Any]],
        source_weights: Weights | Callable[[int], Weights],
        source_ids: ArrayLike,
        *,
        mode: str = "importance",
        loss: Callable[..., Tensor],
        **settings: Unpack[TrainerSettings],
    ) -> None:
        self._weighting = Weighting(
            _schedule(source_weights),
            mode,
            source_ids,
            None,
            batch_cells=_sources,
            seed=settings.get("seed") or 0,
        )
        loader = self._weighting.loader(train_loader)
        super().__init__(model, loader, loss=self._weighting.loss(loss), **settings)
        self._weighting.begin(0)

    def train_epoch(self) -> dict[str, float]:
        """Train to the end of the epoch with its weights; see `MultiModalTrainer.train_epoch`.

        Returns:
            The mean of `loss` and of its terms.

        Raises:
            ValueError: The weights of the epoch are off the simplex or of other sources.
            FloatingPointError: More than 10 steps in a row had a NaN or infinite gradient.
        """
        self._weighting.begin(self.epoch)
        return super().train_epoch()


def _schedule(source_weights: Weights | Callable[[int], Weights]) -> Schedule:
    if callable(source_weights):
        return lambda epoch: _named(source_weights(epoch))
    fixed = _named(source_weights)
    return lambda _: fixed


def _named(weights: Weights) -> SourceWeights | ArrayLike:
    """A mapping as weights with names, in its order."""
    if not isinstance(weights, Mapping):
        return weights
    values = np.array(list(weights.values()), dtype=np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all() and abs(values.sum() - 1) <= 1e-6):
        raise ValueError(
            f"source_weights must be finite, >= 0 and sum to 1 within 1e-6, got {dict(weights)} "
            f"with sum {values.sum()}"
        )
    return SourceWeights(tuple(weights), values / values.sum(), "given")


def _sources(batch: Mapping[str, Any]) -> Indices:
    if "source" not in batch:
        raise ValueError(
            f"the batch has no 'source', only {sorted(batch)}; give every sample the number of its "
            "source"
        )
    indices: Indices = batch["source"].cpu().numpy()
    return indices
