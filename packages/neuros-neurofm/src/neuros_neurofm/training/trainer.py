"""The training loop: accumulate, clip, step, validate, and resume to the bit."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from neuros_core import Callback, RunManifest
from neuros_neurofm.training._checkpoint_file import read_checkpoint, write_checkpoint
from neuros_neurofm.training._gradients import check_skipped, clip_gradient, weighted_sum
from neuros_neurofm.training._metrics import RunningMeans, content_hash
from neuros_neurofm.training._position import LoaderPosition, groups, length_of
from neuros_neurofm.training._random_state import undisturbed
from neuros_neurofm.training._setup import (
    Masker,
    build_fabric,
    build_objective,
    check_scheduler,
    choose_precision,
    default_optimizer,
    describe_optimizer,
    move,
    read_forward,
    seeded_generator,
)

if TYPE_CHECKING:
    from lightning_fabric.loggers.logger import Logger

__all__ = ["MultiModalTrainer"]

Batch: TypeAlias = Mapping[str, Any]

_PROGRESS = ("epoch", "global_step", "skipped_steps", "best_loss", "history", "_skipped_in_a_row")
_logger = logging.getLogger(__name__)


class MultiModalTrainer:
    """Train a model on batches of neural recordings, on Lightning Fabric.

    Without `loss` and `masker` the model learns to fill in a random quarter of its input
    (`MaskedModelingLoss` on what `NeuralMasker("random", 0.25)` hides). With a `loss` of your own
    nothing is hidden unless you pass a `masker`.

    A run that is killed goes on from its last checkpoint as if nothing had happened: on the CPU
    every later parameter is equal bit for bit. The loader must give the same batches again for the
    same random state; a batch sampler (or sampler) with `state_dict` and `load_state_dict` is set
    to its position, any other loader is read and dropped up to there. A data set that draws random
    numbers inside worker processes is resumed exactly only in the second way.

    A model with a method `set_progress(share)` (`MultiModalNeuroFMX` has one, for its domain
    discriminator) is told before every step of `fit` which share of the epochs is done, batch by
    batch where the loader knows its length. The share follows from the position, so it resumes
    with it; `train_epoch` outside `fit` has no end to compare with and tells nothing.

    Args:
        model: A module with a method `forward_batch(batch)` that returns the outputs by name.
        train_loader: Anything that yields batches (`neuros_core.Batch` of tensors) again and again.
        val_loader: The same for validation, read once per `validate`.
        optimizer: Over the model's parameters; default AdamW with learning rate 3e-4 and weight
            decay 0.01 on matrices, none on vectors and on parameters marked `_no_weight_decay`.
        loss: A `CombinedLoss` or one objective; see above for the default.
        masker: Turns a batch into a masked one, `(batch, generator) -> batch`.
        device: `auto` takes an accelerator where there is one.
        mixed_precision: True is `precision="bf16-mixed"`.
        precision: `32-true` (the model as it is) or `bf16-mixed` (bfloat16 autocast, float32
            parameters).
        gradient_accumulation_steps: Batches per optimiser step. Every loss is weighted by its
            number of valid targets, so the gradient is that of one batch of all their rows.
        max_grad_norm: Bound of the gradient's 2-norm; None leaves it as it is.
        scheduler: Stepped after every optimiser step.
        loggers: Lightning Fabric loggers, called after every step and every validation.
        callbacks: `neuros_core.Callback`s, called after every step and every epoch of `fit`.
        checkpoint_dir: Where `fit` keeps `last.ckpt` and, with a `val_loader`, `best.ckpt`.
        seed: Seeds torch's global generator (initialisation after this call, dropout) and the
            masker; None draws the masker's seed from torch's global generator.
        data_hash: sha256 of the data, for the manifest of the checkpoints.
        progress: False turns the progress bar off; it is off anyway where nobody can see it.

    Raises:
        TypeError: A model without `forward_batch`.
        ValueError: Settings that contradict each other or are out of range.
        RuntimeError: A device that this machine does not have.

    Examples:
        >>> import torch
        >>> class Mean(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.level = torch.nn.Parameter(torch.zeros(()))
        ...     def forward_batch(self, batch):
        ...         return {"encoder": {"lfp": self.level.expand(batch["lfp"].shape)}}
        >>> model, batches = Mean(), [{"lfp": torch.full((2, 8, 3), 1.5)}] * 20
        >>> trainer = MultiModalTrainer(
        ...     model, batches, optimizer=torch.optim.SGD(model.parameters(), lr=0.5), seed=0)
        >>> history = trainer.fit(2)
        >>> trainer.global_step, round(model.level.item(), 3)
        (40, 1.5)

    References:
        Falcon, W. & the PyTorch Lightning team (2019). PyTorch Lightning.
        https://doi.org/10.5281/zenodo.3828935
    """

    def __init__(
        self,
        model: nn.Module,
        train_loader: Iterable[Batch],
        val_loader: Iterable[Batch] | None = None,
        optimizer: Optimizer | None = None,
        *,
        loss: Callable[..., Tensor] | None = None,
        masker: Masker | None = None,
        device: str = "auto",
        mixed_precision: bool = False,
        precision: str | None = None,
        gradient_accumulation_steps: int = 1,
        max_grad_norm: float | None = 1.0,
        scheduler: LRScheduler | None = None,
        loggers: "Sequence[Logger]" = (),
        callbacks: Sequence[Callback] = (),
        checkpoint_dir: str | Path | None = None,
        seed: int | None = None,
        data_hash: str | None = None,
        progress: bool = True,
    ) -> None:
        self._forward = read_forward(model, gradient_accumulation_steps, max_grad_norm)
        self._set_progress: Callable[[float], None] | None = getattr(model, "set_progress", None)
        self._num_epochs: int | None = None
        self.train_loader = train_loader
        self.val_loader = val_loader
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.max_grad_norm = max_grad_norm
        self.callbacks = tuple(callbacks)
        self.checkpoint_dir = None if checkpoint_dir is None else Path(checkpoint_dir)
        self.seed = seed
        self.progress = progress
        self.epoch = 0
        self.global_step = 0
        self.skipped_steps = 0
        self.best_loss = float("inf")
        self.history: list[dict[str, float]] = []
        self._data_hash = data_hash
        self._skipped_in_a_row = 0
        self._generator = seeded_generator(seed)
        self._val_seed = self._generator.initial_seed()
        self.loss, self.masker = build_objective(loss, masker)
        self._precision = choose_precision(precision, mixed_precision=mixed_precision)
        self.fabric = build_fabric(device, self._precision, loggers)
        self._log = len(loggers) > 0
        self.model = model
        for module in (model, self.loss):
            self.fabric.to_device(module)
        self.optimizer = optimizer or default_optimizer([model, self.loss])
        self.scheduler = scheduler
        self._stepper = cast("Optimizer", self.fabric.setup_optimizers(self.optimizer))
        self._position = LoaderPosition()
        self._means = RunningMeans()

    def fit(self, num_epochs: int) -> list[dict[str, float]]:
        """Train until `num_epochs` epochs are complete, those before a resumption included.

        Args:
            num_epochs: Number of epochs in all; nothing happens where they are already complete.

        Returns:
            One dict per epoch: `loss` and its terms, and `val_loss` and its terms after a
            validation.

        Raises:
            ValueError: `num_epochs` is below 1, or a loader is empty.
            FloatingPointError: More than 10 steps in a row had a NaN or infinite gradient.
        """
        if num_epochs < 1:
            raise ValueError(f"num_epochs must be at least 1, got {num_epochs}")
        self._num_epochs = num_epochs
        while self.epoch < num_epochs:
            metrics = self.train_epoch()
            if self.val_loader is not None:
                metrics |= {f"val_{name}": value for name, value in self.validate().items()}
            self.history.append(metrics)
            self._end_epoch(metrics)
        return [dict(metrics) for metrics in self.history]

    def train_epoch(self) -> dict[str, float]:
        """Train to the end of the epoch, from its beginning or where a checkpoint stood.

        Returns:
            The mean of `loss` and of its terms over all targets of the epoch, those before a
            resumption included.

        Raises:
            ValueError: The loader is empty.
            FloatingPointError: More than 10 steps in a row had a NaN or infinite gradient.
        """
        self.model.train()
        batches = self._position.batches(self.train_loader, self.epoch)
        with self._bar() as bar:
            for group in groups(batches, self.gradient_accumulation_steps):
                self._tell_progress()
                loss = self._step(group)
                self._position.n_used += len(group)
                bar.update(len(group))
                self._end_step(loss)
        if self._position.n_used == 0:
            raise ValueError("train_loader yielded no batch; it needs at least one per epoch")
        self._position.finish(self.train_loader)
        metrics = self._means.compute()
        self._means.reset()
        self.epoch += 1
        return metrics

    def validate(self) -> dict[str, float]:
        """Score the model on the validation batches; the training goes on as if it had not been.

        The same entries are hidden in every call.

        Returns:
            The mean of `loss` and of its terms over all targets, exact for unequal batches.

        Raises:
            ValueError: There is no `val_loader`, or it is empty.
        """
        if self.val_loader is None:
            raise ValueError("validate needs a val_loader; pass one to the trainer")
        generator = Generator().manual_seed(self._val_seed)
        means = RunningMeans()
        with undisturbed(self.model), torch.no_grad():
            self.model.eval()
            for raw in self.val_loader:
                batch = self._prepare(raw, generator)
                means.add(self._terms(batch), self.loss.counts(batch))
        if means.empty:
            raise ValueError("val_loader yielded no batch; it needs at least one")
        return means.compute()

    def save_checkpoint(self, path: str | Path) -> None:
        """Write everything that the rest of the run depends on; callable from a callback.

        The file appears whole or not at all, and replaces an older one only then.

        Args:
            path: Where to write; folders are made.

        Raises:
            OSError: The file cannot be written, such as on a full disk; an older one stays.
            TypeError: A state that could not be loaded safely.
        """
        model = self.model.state_dict()
        manifest = RunManifest.collect(
            kind="checkpoint",
            config=self._config(),
            seed=self.seed,
            data_hash=self._data_hash,
            model_hash=content_hash(model),
        )
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        content = {
            "manifest": manifest.to_dict(),
            "model": model,
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": scheduler,
            "progress": {name: getattr(self, name) for name in _PROGRESS},
            "means": self._means.state_dict(),
            "masker": {"state": self._generator.get_state(), "val_seed": self._val_seed},
            "position": self._position.state_dict(),
        }
        write_checkpoint(path, content)

    def load_checkpoint(self, path: str | Path) -> RunManifest:
        """Go on from a checkpoint, in a trainer built like the one that wrote it.

        Args:
            path: What `save_checkpoint` wrote.

        Returns:
            The manifest of the run that wrote it.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged or of a newer schema, or its model, optimiser or
                scheduler differs from this trainer's.
        """
        content = read_checkpoint(path)
        check_scheduler(path, content, self.scheduler)
        try:
            self.model.load_state_dict(content["model"])
            self.loss.load_state_dict(content["loss"])
            self.optimizer.load_state_dict(content["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"the checkpoint {path} does not fit this trainer ({error}); "
                "build it with the configuration in the checkpoint's manifest"
            ) from error
        if self.scheduler is not None:
            self.scheduler.load_state_dict(content["scheduler"])
        for name in _PROGRESS:
            setattr(self, name, content["progress"][name])
        self._means.load_state_dict(content["means"], self.fabric.device)
        self._generator.set_state(content["masker"]["state"])
        self._val_seed = content["masker"]["val_seed"]
        self._position.load_state_dict(content["position"])
        return RunManifest.from_dict(content["manifest"])

    def _step(self, group: Sequence[Batch]) -> Tensor | None:
        """Take one optimiser step over the batches of `group`; None where it had to be skipped."""
        batches = [self._prepare(raw, self._generator) for raw in group]
        counts = [self.loss.counts(batch) for batch in batches]
        totals = {name: torch.stack([part[name] for part in counts]).sum() for name in counts[0]}
        self._stepper.zero_grad()
        values, results = [], []
        for batch, count in zip(batches, counts, strict=True):
            loss = weighted_sum(self._terms(batch), count, totals)
            self.fabric.backward(loss)
            values.append(loss.detach())
            results.append(self.loss.terms)
        if not clip_gradient(self.optimizer, self.max_grad_norm):
            self._skip()
            return None
        self._stepper.step()
        if self.scheduler is not None:
            self.scheduler.step()
        for result, count in zip(results, counts, strict=True):
            self._means.add(result, count)
        self.global_step += 1
        self._skipped_in_a_row = 0
        return torch.stack(values).sum()

    def _tell_progress(self) -> None:
        """Tell the model the share of `fit` that is done; it follows from the position alone."""
        if self._set_progress is None or self._num_epochs is None:
            return
        within = self._position.share(self.train_loader)
        self._set_progress(min((self.epoch + within) / self._num_epochs, 1.0))

    def _prepare(self, raw: Batch, generator: Generator) -> Batch:
        batch: Batch = move(raw, self.fabric.device)
        return batch if self.masker is None else self.masker(batch, generator)

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        with self.fabric.autocast():
            outputs = self._forward(batch)
        return self.loss.evaluate(outputs, batch)

    def _skip(self) -> None:
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        _logger.warning("step skipped: the gradient after step %d is not finite", self.global_step)
        check_skipped(self._skipped_in_a_row)

    def _end_step(self, loss: Tensor | None) -> None:
        if loss is None:
            return
        for callback in self.callbacks:
            callback.on_step_end(self, self.global_step, float(loss))
        if self._log:
            self.fabric.log_dict({"loss": float(loss)}, step=self.global_step)

    def _end_epoch(self, metrics: Mapping[str, float]) -> None:
        improved = metrics.get("val_loss", float("inf")) < self.best_loss
        if improved:
            self.best_loss = metrics["val_loss"]
        if self.checkpoint_dir is not None:
            self.save_checkpoint(self.checkpoint_dir / "last.ckpt")
            if improved:
                self.save_checkpoint(self.checkpoint_dir / "best.ckpt")
        if self._log:
            self.fabric.log_dict({f"epoch_{k}": v for k, v in metrics.items()}, self.global_step)
        for callback in self.callbacks:
            callback.on_epoch_end(self, self.epoch, metrics)

    def _bar(self) -> "tqdm[NoReturn]":
        total = length_of(self.train_loader)
        # None: off where standard error is no terminal.
        disable = None if self.progress else True
        start = self._position.n_used
        return tqdm(total=total, initial=start, desc=f"epoch {self.epoch + 1}", disable=disable)

    def _config(self) -> dict[str, Any]:
        return {
            "model": type(self.model).__name__,
            "loss": sorted(self.loss.objectives),
            "masker": repr(self.masker),
            "optimizer": describe_optimizer(self.optimizer),
            "scheduler": type(self.scheduler).__name__,
            "precision": self._precision,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "max_grad_norm": self.max_grad_norm,
        }
