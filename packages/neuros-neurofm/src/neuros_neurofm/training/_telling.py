"""What a run tells while it goes on: to callbacks, to loggers, and on the terminal."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor
from tqdm import tqdm

if TYPE_CHECKING:
    from lightning_fabric.fabric import Fabric
else:
    # Imported by the trainer that makes it.
    Fabric = Any

__all__: list[str] = []


class Telling:
    """Loggers, progress bar and callbacks of one trainer.

    Args:
        fabric: Has the loggers.
        log: Whether there are loggers.
        first: Whether this is the process that draws the bar.
        set_progress: What the model is told the share of the training with, if anything.
    """

    def __init__(
        self,
        fabric: Fabric,
        *,
        log: bool,
        first: bool,
        set_progress: Callable[[float], None] | None,
    ) -> None:
        self._fabric = fabric
        self._log = log
        self._first = first
        self._set_progress = set_progress

    def share(self, share: Callable[[], float]) -> None:
        """The model hears which share of the training is done."""
        if self._set_progress is not None:
            self._set_progress(min(share(), 1.0))

    def end_step(self, trainer: Any, step: int, loss: Tensor | None) -> None:
        """A step has been taken; None: it was skipped."""
        if loss is None:
            return
        for callback in trainer.callbacks:
            callback.on_step_end(trainer, step, float(loss))
        if self._log:
            self._fabric.log_dict({"loss": float(loss)}, step=step)

    def end_epoch(self, trainer: Any, epoch: int, metrics: Mapping[str, float]) -> None:
        """The callbacks hear of an epoch before its checkpoint is written."""
        for callback in trainer.callbacks:
            callback.on_epoch_end(trainer, epoch, metrics)

    def log_epoch(self, metrics: Mapping[str, float], step: int) -> None:
        """The loggers hear of it afterwards."""
        if self._log:
            self._fabric.log_dict({f"epoch_{k}": v for k, v in metrics.items()}, step)

    def bar(self, total: int | None, start: int, epoch: int, *, wanted: bool) -> "tqdm[NoReturn]":
        """The bar of an epoch."""
        # None: off where standard error is no terminal.
        disable = None if wanted and self._first else True
        return tqdm(total=total, initial=start, desc=f"epoch {epoch + 1}", disable=disable)
