"""What a trainer with weights does differently: which rows it draws, and how much they count."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from neuros_neurofm.losses import CombinedLoss
from neuros_neurofm.training._domain_weights import (
    Shares,
    Weights,
    cells_of,
    check_same,
    names_of,
    places,
    read_simplex,
)
from neuros_neurofm.training._weighted_objective import Cells, WeightedObjective
from neuros_neurofm.training.domain_weighting import DomainWeightedSampler

__all__: list[str] = []

Schedule: TypeAlias = Callable[[int], Weights]


class Weighting:
    """Turns a loader and a loss into those of the weighted mixture.

    Args:
        weights_at: Weights of an epoch: (domain,) or (domain, class).
        mode: `importance` weighs the losses, `sampling` the draws.
        domain_ids: Domain of every sample of the loader's data set.
        class_ids: Class of every sample, for weights of (domain, class).
        batch_cells: Index of the weight of every row of a batch.
        seed: Of the draws.

    Raises:
        ValueError: An unknown mode, weights off the simplex, or ids that do not fit.
    """

    def __init__(
        self,
        weights_at: Schedule,
        mode: str,
        domain_ids: ArrayLike,
        class_ids: ArrayLike | None,
        *,
        batch_cells: Cells,
        seed: int,
    ) -> None:
        if mode not in ("importance", "sampling"):
            raise ValueError(f"mode must be importance or sampling, got {mode!r}")
        self.weights_at = weights_at
        self.mode = mode
        first = weights_at(0)
        self.shape, self.names = read_simplex("source_weights", first).shape, names_of(first)
        self._ids = (domain_ids, class_ids)
        cells = cells_of(domain_ids, class_ids, first, self.shape)
        counts = np.bincount(cells, minlength=int(np.prod(self.shape)))
        self.shares: Shares = (counts / len(cells)).reshape(self.shape)
        self._batch_cells = batch_cells
        self._generator = Generator().manual_seed(seed)
        self._sampler: DomainWeightedSampler | None = None
        self._objectives: list[WeightedObjective] = []

    def loader(self, loader: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
        """The loader itself, or one that draws by weight."""
        if self.mode == "importance":
            return loader
        if not isinstance(loader, DataLoader) or loader.batch_size is None:
            raise TypeError(
                "mode='sampling' draws the samples of a DataLoader with a batch_size, got "
                f"{type(loader).__name__}; pass one, or use mode='importance'"
            )
        domain_ids, class_ids = self._ids
        n_samples = int(np.size(np.asarray(domain_ids)))
        self._sampler = DomainWeightedSampler(
            domain_ids,
            self.weights_at(0),
            num_samples=n_samples,
            generator=self._generator,
            class_ids=class_ids,
        )
        drawn: DataLoader[Any] = DataLoader(
            loader.dataset,
            batch_size=loader.batch_size,
            sampler=self._sampler,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            drop_last=loader.drop_last,
            worker_init_fn=loader.worker_init_fn,
            persistent_workers=loader.persistent_workers,
        )
        return drawn

    def loss(self, loss: Callable[..., Tensor]) -> CombinedLoss:
        """Objectives that weigh the rows, or those given."""
        whole = loss if isinstance(loss, CombinedLoss) else CombinedLoss([loss])
        if self.mode == "sampling":
            return whole
        self._objectives = [
            WeightedObjective(objective, self._batch_cells)
            for objective in whole.objectives.values()
        ]
        return CombinedLoss(self._objectives)

    def begin(self, epoch: int) -> None:
        """Take the weights of an epoch.

        Raises:
            ValueError: Weights off the simplex, of other domains, or on a domain without a sample.
        """
        weights = self.weights_at(epoch)
        w = read_simplex("source_weights", weights)
        check_same("source_weights", w, names_of(weights), np.empty(self.shape), self.names)
        never = np.argwhere((w > 0) & (self.shares == 0))
        if len(never):
            raise ValueError(
                f"{places(never, w)} have a positive weight but no sample; give them weight 0 or "
                "data"
            )
        if self._sampler is not None:
            self._sampler.set_weights(weights)
        ratios = np.divide(w, self.shares, out=np.zeros_like(w), where=self.shares > 0)
        for objective in self._objectives:
            objective.ratios = ratios.ravel()
