"""Train on mixtures of sources that differ from class to class."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from neuros_core.domains import ClassSourceWeights
from neuros_neurofm.training._domain_weights import Indices
from neuros_neurofm.training._settings import TrainerSettings
from neuros_neurofm.training._weighting import Weighting
from neuros_neurofm.training.neurofmxx_trainer import _sources
from neuros_neurofm.training.trainer import MultiModalTrainer

__all__ = ["ClassConditionalTrainer"]


class ClassConditionalTrainer(MultiModalTrainer):
    r"""`MultiModalTrainer` whose expected loss is $\sum_k p_k \sum_s w_{sk} E[L \mid s, k]$.

    A source may be a good teacher of one class and a poor one of another. Modes as in
    `DomainWeightedTrainer`.

    Args:
        model: As in `MultiModalTrainer`.
        train_loader: As in `DomainWeightedTrainer`. Batches carry `source` and integer `behavior`,
            whose first query is the row's class.
        source_weights: (source, class) numbers, every column on the simplex; or
            `ClassSourceWeights`, which hold the shares of the classes as well.
        source_ids: Source of every sample of the loader's data set, numbers (or the names of
            `ClassSourceWeights`).
        class_ids: Class of every sample, likewise.
        class_shares: $p_k$, (class,) on the simplex; None: those of the data.
        mode: See above.
        loss: A `CombinedLoss` or one objective.
        settings: The other arguments of `MultiModalTrainer`.

    Raises:
        ValueError: A column off the simplex (1e-6), ids without a weight, a positive weight without
            a sample, or an unknown mode.
        TypeError: `sampling` of a loader that is no `DataLoader` with a batch size.

    Examples:
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> from neuros_neurofm.losses import BehaviorLoss
        >>> class Logits(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.logits = torch.nn.Parameter(torch.zeros(2))
        ...     def forward_batch(self, batch):
        ...         return {"decoder": self.logits.expand(len(batch["source"]), 1, 2)}
        >>> rows = [{"behavior": torch.tensor([k]), "source": s} for s in (0, 1) for k in (0, 1)]
        >>> model = Logits()
        >>> trainer = ClassConditionalTrainer(
        ...     model, DataLoader(rows, 4), [[1.0, 0.0], [0.0, 1.0]], [0, 0, 1, 1], [0, 1, 0, 1],
        ...     loss=BehaviorLoss(), optimizer=torch.optim.SGD(model.parameters(), lr=1.0))
        >>> round(trainer.fit(1)[0]["loss"], 3)  # both classes count half: ln 2
        0.693

    References:
        Zhang, Schoelkopf, Muandet & Wang (2013). Domain adaptation under target and conditional
        shift. ICML, PMLR 28(3):819-827.
    """

    def __init__(
        self,
        model: nn.Module,
        train_loader: Iterable[Mapping[str, Any]],
        source_weights: ClassSourceWeights | ArrayLike,
        source_ids: ArrayLike,
        class_ids: ArrayLike,
        *,
        class_shares: ArrayLike | None = None,
        mode: str = "importance",
        loss: Callable[..., Tensor],
        **settings: Unpack[TrainerSettings],
    ) -> None:
        joint = (
            source_weights
            if isinstance(source_weights, ClassSourceWeights)
            else _joint(source_weights, class_ids, class_shares)
        )
        n_classes = np.asarray(getattr(joint, "joint", joint)).shape[1]
        self._weighting = Weighting(
            lambda _: joint,
            mode,
            source_ids,
            class_ids,
            batch_cells=lambda batch: _sources(batch) * n_classes + _classes(batch, n_classes),
            seed=settings.get("seed") or 0,
        )
        loader = self._weighting.loader(train_loader)
        super().__init__(model, loader, loss=self._weighting.loss(loss), **settings)
        self._weighting.begin(0)


def _joint(
    source_weights: ArrayLike, class_ids: ArrayLike, class_shares: ArrayLike | None
) -> NDArray[np.float64]:
    """Weights (source, class) times the shares of the classes."""
    w = np.array(source_weights, dtype=np.float64)
    if w.ndim != 2 or not w.size:
        raise ValueError(f"source_weights must be (source, class), got shape {w.shape}")
    sums = w.sum(axis=0)
    if not (np.isfinite(w).all() and (w >= 0).all() and (np.abs(sums - 1) <= 1e-6).all()):
        raise ValueError(
            "every column of source_weights must be finite, >= 0 and sum to 1 within 1e-6, got "
            f"sums {sums.tolist()}"
        )
    if class_shares is not None:
        shares = np.array(class_shares, dtype=np.float64)
    else:
        classes = np.asarray(class_ids)
        if classes.dtype.kind not in "iu" or classes.min() < 0 or classes.max() >= w.shape[1]:
            raise ValueError(f"class_ids must be integers in [0, {w.shape[1]})")
        shares = np.bincount(classes, minlength=w.shape[1]) / len(classes)
    if shares.shape != (w.shape[1],) or (shares < 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise ValueError(
            f"class_shares must be {w.shape[1]} numbers >= 0 that sum to 1, got {shares.tolist()}"
        )
    joint: NDArray[np.float64] = w / sums * (shares / shares.sum())
    return joint


def _classes(batch: Mapping[str, Any], n_classes: int) -> Indices:
    labels = batch.get("behavior")
    if labels is None or labels.is_floating_point():
        raise ValueError(
            "the batch needs integer 'behavior', the class of every row; DomainWeightedTrainer "
            "weighs without classes"
        )
    classes: Indices = labels.reshape(len(labels), -1)[:, 0].cpu().numpy()
    if classes.min() < 0 or classes.max() >= n_classes:
        raise ValueError(
            f"classes must lie in [0, {n_classes}), got [{classes.min()}, {classes.max()}]"
        )
    return classes
