"""The training step of `MultiModalTrainer` for users of `lightning.Trainer`."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from neuros_neurofm.training._setup import (
    Masker,
    OptimizerFactory,
    build_objective,
    build_optimizer,
    check_model,
    seeded_generator,
)

try:
    from lightning.pytorch import LightningModule
except ImportError as error:
    raise ImportError(
        "NeuroFMXLightningModule needs Lightning; pip install 'neuros-neurofm[lightning]'"
    ) from error

__all__ = ["NeuroFMXLightningModule"]

Batch: TypeAlias = Mapping[str, Any]


class NeuroFMXLightningModule(LightningModule):
    """A model with its objective, its masking and its optimiser, for `lightning.Trainer`.

    What `MultiModalTrainer` does in a step, without accumulation weighted by targets: Lightning
    averages the losses of accumulated batches, and those of processes, as if they held equally
    many. Use the trainer of this package where they do not, or to resume to the bit.

    Args:
        model: A module with a method `forward_batch(batch)` that returns the outputs by name.
        loss: A `CombinedLoss` or one objective; default as in `MultiModalTrainer`.
        masker: Turns a batch into a masked one, `(batch, generator) -> batch`.
        optimizer: Makes the optimiser of the parameters; default as in `MultiModalTrainer`.
        scheduler: Makes the schedule of the optimiser, stepped after every optimiser step.
        seed: Seeds the masker; None draws it from torch's global generator.

    Raises:
        TypeError: A model without `forward_batch`.
        ImportError: When Lightning is not installed.

    Examples:
        >>> import torch
        >>> from neuros_neurofm import MultiModalNeuroFMX
        >>> model = MultiModalNeuroFMX(16, 1, 4, 8, modalities=("lfp",), behavior_dim=0)
        >>> module = NeuroFMXLightningModule(model, seed=0)
        >>> bool(module.training_step({"lfp": torch.randn(2, 8, 3)}, 0) > 0)
        True

    References:
        Falcon, W. & the PyTorch Lightning team (2019). PyTorch Lightning.
        https://doi.org/10.5281/zenodo.3828935
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Callable[..., Tensor] | None = None,
        masker: Masker | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_model(model, accumulation=1, max_grad_norm=None)
        self.model = model
        self.loss, self.masker = build_objective(loss, masker)
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._generator = seeded_generator(seed)
        self._val_seed = self._generator.initial_seed()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch; its terms are logged as `train_<name>`.

        Args:
            batch: A `neuros_core.Batch` of tensors.
            batch_idx: Position in the epoch; it tells the model how much of the training is done.

        Returns:
            The loss, shape ().
        """
        self._tell_progress(batch_idx)
        return self._evaluate("train", batch, self._generator)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a validation batch, the same entries hidden every time.

        Args:
            batch: A `neuros_core.Batch` of tensors.
            batch_idx: Position in the validation.

        Returns:
            The loss, shape ().
        """
        generator = Generator().manual_seed((self._val_seed + batch_idx) % 2**63)
        return self._evaluate("val", batch, generator)

    def configure_optimizers(self) -> Any:
        """The optimiser, with its schedule where there is one.

        Returns:
            What Lightning reads.
        """
        optimizer = build_optimizer(self._optimizer, self, sharded=False)
        if self._scheduler is None:
            return optimizer
        schedule = {"scheduler": self._scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _evaluate(self, stage: str, raw: Batch, generator: Generator) -> Tensor:
        batch = raw if self.masker is None else self.masker(raw, generator)
        loss: Tensor = self.loss(self.model.forward_batch(batch), batch)  # type: ignore[operator]  # checked in __init__
        values = {"loss": loss.detach(), **self.loss.terms}
        if self._trainer is not None:
            n_rows = next(len(x) for x in batch.values() if isinstance(x, Tensor))
            self.log_dict({f"{stage}_{k}": v for k, v in values.items()}, batch_size=n_rows)
        return loss

    def _tell_progress(self, batch_idx: int) -> None:
        tell = getattr(self.model, "set_progress", None)
        if tell is None or self._trainer is None:
            return
        n_epochs = self.trainer.max_epochs or 0
        n_batches = float(self.trainer.num_training_batches)
        if n_epochs > 0 and n_batches < float("inf"):
            tell(min((self.current_epoch + batch_idx / n_batches) / n_epochs, 1.0))
