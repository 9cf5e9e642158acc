"""End a training that no longer improves."""

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Stops `MultiModalTrainer.fit` once a metric has not improved for some epochs.

    A `neuros_core.Callback`; what it has seen is kept in the trainer's checkpoints.

    Args:
        patience: Epochs without an improvement until the training ends, >= 1.
        min_delta: By how much the metric must fall to count as an improvement, >= 0.
        monitor: Key of the epoch's metrics, smaller is better.

    Raises:
        ValueError: A patience below 1 or a negative `min_delta`.

    Examples:
        >>> class Trainer:
        ...     should_stop = False
        >>> stopping, trainer = EarlyStopping(patience=2), Trainer()
        >>> for epoch, loss in enumerate([3.0, 2.0, 2.0, 2.5]):
        ...     stopping.on_epoch_end(trainer, epoch, {"val_loss": loss})
        >>> trainer.should_stop
        True

    References:
        Prechelt (1998). Early stopping - but when? Neural Networks: Tricks of the Trade.
        https://doi.org/10.1007/3-540-49430-8_3
    """

    def __init__(
        self, patience: int = 5, *, min_delta: float = 0.0, monitor: str = "val_loss"
    ) -> None:
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        if not min_delta >= 0:
            raise ValueError(f"min_delta must be >= 0, got {min_delta}")
        self.patience = patience
        self.min_delta = min_delta
        self.monitor = monitor
        self.best = math.inf
        self.n_without = 0

    def on_step_end(self, trainer: Any, step: int, loss: float) -> None:
        """Nothing is judged within an epoch."""

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: Mapping[str, float]) -> None:
        """Judge the epoch, and set `trainer.should_stop` where the patience is over.

        Args:
            trainer: The trainer that calls.
            epoch: Number of complete epochs.
            metrics: Its metrics by name.

        Raises:
            KeyError: There is no such metric; a validation needs a `val_loader`.
        """
        if self.monitor not in metrics:
            raise KeyError(
                f"EarlyStopping reads {self.monitor!r}, epoch {epoch} has {sorted(metrics)}; "
                "give the trainer a val_loader, or monitor one of these"
            )
        value = metrics[self.monitor]
        if value < self.best - self.min_delta:
            self.best, self.n_without = value, 0
            return
        self.n_without += 1
        if self.n_without >= self.patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the number of epochs since."""
        return {"best": self.best, "n_without": self.n_without}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`.

        Args:
            state: What `state_dict` returned.
        """
        self.best, self.n_without = state["best"], state["n_without"]
