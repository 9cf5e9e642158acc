"""The training loop: accumulate, clip, step, validate, and resume to the bit."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from neuros_core import Callback, RunManifest
from neuros_neurofm.training._checkpoint_file import read_checkpoint, write_checkpoint
from neuros_neurofm.training._metrics import RunningMeans, content_hash
from neuros_neurofm.training._position import LoaderPosition, groups, length_of
from neuros_neurofm.training._processes import Devices, Processes
from neuros_neurofm.training._random_state import undisturbed
from neuros_neurofm.training._run_state import (
    callback_states,
    collect_states,
    own_part,
    restore_callbacks,
    restore_run,
    split_state,
)
from neuros_neurofm.training._setup import (
    Masker,
    OptimizerFactory,
    build_objective,
    build_optimizer,
    check_model,
    check_scheduler,
    choose_precision,
    describe_run,
    move,
    seeded_generator,
)
from neuros_neurofm.training._sharding import is_own, share_loader
from neuros_neurofm.training._step import TrainingStep
from neuros_neurofm.training._telling import Telling
from neuros_neurofm.training._updates import Updates

if TYPE_CHECKING:
    from lightning_fabric.loggers.logger import Logger

__all__ = ["MultiModalTrainer"]

Batch: TypeAlias = Mapping[str, Any]

_PROGRESS = ("epoch", "best_loss", "history", "should_stop")


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
        optimizer: Over the model's parameters, or a function that makes one of them; default AdamW
            with learning rate 3e-4 and weight decay 0.01 on matrices, none on vectors and on
            parameters marked `_no_weight_decay`.
        loss: A `CombinedLoss` or one objective; see above for the default.
        masker: Turns a batch into a masked one, `(batch, generator) -> batch`.
        device: `auto` takes an accelerator where there is one.
        mixed_precision: True is `precision="bf16-mixed"`, or `16-mixed` on a GPU without bfloat16.
        precision: `32-true` (the model as it is), or autocast with float32 parameters: `bf16-mixed`
            (bfloat16), `16-mixed` (float16 with a scaled loss).
        gradient_accumulation_steps: Batches per optimiser step. Every loss is weighted by its
            number of valid targets, so the gradient is that of one batch of all their rows.
        max_grad_norm: Bound of the gradient's 2-norm; None leaves it as it is.
        scheduler: Stepped after every optimiser step; or a function that makes it of the optimiser.
        strategy: `ddp`: every process holds the model and averages gradients; `fsdp`: the blocks
            of `model.backbone` are sharded (FSDP2); `auto`: `ddp` where there are several
            processes. See the guide "Scale out".
        devices: Processes on this machine; `auto`: those that torchrun started, else one per
            accelerator.
        loggers: Lightning Fabric loggers, called after every step and every validation.
        callbacks: `neuros_core.Callback`s, called after every step and every epoch of `fit`, in
            every process; those with `state_dict` and `load_state_dict` are checkpointed.
        checkpoint_dir: Where `fit` keeps `last.ckpt` and, with a `val_loader`, `best.ckpt`.
        seed: Seeds torch's global generator (initialisation after this call, dropout) and the
            masker; None draws the masker's seed from torch's global generator.
        compile: Compile the model's forward pass with `torch.compile`.
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
        optimizer: Optimizer | OptimizerFactory | None = None,
        *,
        loss: Callable[..., Tensor] | None = None,
        masker: Masker | None = None,
        device: str = "auto",
        mixed_precision: bool = False,
        precision: str | None = None,
        gradient_accumulation_steps: int = 1,
        max_grad_norm: float | None = 1.0,
        scheduler: LRScheduler | Callable[[Optimizer], LRScheduler] | None = None,
        strategy: str = "auto",
        devices: Devices = 1,
        loggers: "Sequence[Logger]" = (),
        callbacks: Sequence[Callback] = (),
        checkpoint_dir: str | Path | None = None,
        seed: int | None = None,
        compile: bool = False,
        data_hash: str | None = None,
        progress: bool = True,
    ) -> None:
        check_model(model, gradient_accumulation_steps, max_grad_norm)
        self._precision = choose_precision(
            precision, mixed_precision=mixed_precision, device=device
        )
        self._processes = Processes(
            device, self._precision, loggers, strategy=strategy, devices=devices
        )
        self.fabric = self._processes.fabric
        self._num_epochs: int | None = None
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.callbacks = tuple(callbacks)
        self.checkpoint_dir = None if checkpoint_dir is None else Path(checkpoint_dir)
        self.seed = seed
        self.progress = progress
        self.epoch = 0
        self.best_loss = float("inf")
        self.should_stop = False
        self.history: list[dict[str, float]] = []
        self._data_hash = data_hash
        self._telling = Telling(
            self.fabric,
            log=len(loggers) > 0,
            first=self._processes.rank == 0,
            set_progress=getattr(model, "set_progress", None),
        )
        shared_seed = self._processes.share(int(torch.initial_seed() if seed is None else seed))
        self._generator = seeded_generator(seed, self._processes.rank)
        self._val_seed = self._generator.initial_seed()
        self.train_loader = self._share(train_loader, shared_seed)
        self.val_loader = None if val_loader is None else self._share(val_loader, shared_seed)
        self.loss, self.masker = build_objective(loss, masker)
        self.model = model
        self._step = TrainingStep(model, self.loss, self.fabric.autocast, compiled=compile)
        module = self._processes.spread(self._step)
        self.optimizer = build_optimizer(optimizer, module, sharded=self._processes.sharded)
        self.scheduler = scheduler(self.optimizer) if callable(scheduler) else scheduler
        self._updates = Updates(
            self._processes,
            self._step,
            module,
            self.optimizer,
            scheduler=self.scheduler,
            max_grad_norm=max_grad_norm,
        )
        self._position = LoaderPosition()
        self._means = RunningMeans()

    @property
    def global_step(self) -> int:
        """Optimiser steps so far."""
        return self._updates.n_steps

    @property
    def skipped_steps(self) -> int:
        """Steps whose gradient was not finite."""
        return self._updates.n_skipped

    def fit(self, num_epochs: int) -> list[dict[str, float]]:
        """Train until `num_epochs` epochs are complete, those before a resumption included.

        A callback that sets `should_stop` (`EarlyStopping`) ends the training with its epoch.

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
        while self.epoch < num_epochs and not self.should_stop:
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
        total, start = length_of(self.train_loader), self._position.n_used
        with self._telling.bar(total, start, self.epoch, wanted=self.progress) as bar:
            for group in groups(batches, self.gradient_accumulation_steps):
                if self._num_epochs is not None:
                    self._telling.share(self._share_done)
                n_used = self._position.n_used
                own = [is_own(self.train_loader, n_used + k) for k in range(len(group))]
                ready = [self._prepare(raw, self._generator) for raw in group]
                loss = self._updates.apply(ready, own, self._means)
                self._position.n_used += len(group)
                bar.update(len(group))
                self._telling.end_step(self, self.global_step, loss)
        if self._position.n_used == 0:
            raise ValueError("train_loader yielded no batch; it needs at least one per epoch")
        self._position.finish(self.train_loader)
        metrics = self._means.compute(self._processes.sum)
        self._means.reset()
        self.epoch += 1
        return metrics

    def validate(self) -> dict[str, float]:
        """Score the model on the validation batches; the training goes on as if it had not been.

        The same entries are hidden in every call.

        Returns:
            The mean of `loss` and of its terms over all targets, exact for unequal batches and for
            any number of processes.

        Raises:
            ValueError: There is no `val_loader`, or it is empty.
        """
        if self.val_loader is None:
            raise ValueError("validate needs a val_loader; pass one to the trainer")
        generator = Generator().manual_seed(self._val_seed)
        means = RunningMeans()
        with undisturbed(self.model), torch.no_grad():
            self.model.eval()
            for k, raw in enumerate(self.val_loader):
                batch = self._prepare(raw, generator)
                own = is_own(self.val_loader, k)
                counts = {name: n * own for name, n in self.loss.counts(batch).items()}
                means.add(self._step.terms(batch), counts)
        if means.empty:
            raise ValueError("val_loader yielded no batch; it needs at least one")
        return means.compute(self._processes.sum)

    def save_checkpoint(self, path: str | Path) -> None:
        """Write everything that the rest of the run depends on; callable from a callback.

        The file appears whole or not at all, and replaces an older one only then. With several
        processes all of them call this, and the first one writes.

        Args:
            path: Where to write; folders are made.

        Raises:
            OSError: The file cannot be written, such as on a full disk; an older one stays.
            TypeError: A state that could not be loaded safely.
        """
        whole, moments = collect_states(self._processes, self._step, self.optimizer)
        own = {
            "means": self._means.state_dict(),
            "masker": {"state": self._generator.get_state(), "val_seed": self._val_seed},
            "position": self._position.state_dict(),
        }
        parts = self._processes.gather(own)
        if self._processes.rank == 0:
            model, loss = split_state(whole)
            manifest = RunManifest.collect(
                kind="checkpoint",
                config=describe_run(
                    self.model,
                    self.loss,
                    self.masker,
                    self.optimizer,
                    self.scheduler,
                    precision=self._precision,
                    gradient_accumulation_steps=self.gradient_accumulation_steps,
                    max_grad_norm=self._updates.max_grad_norm,
                    processes=self._processes.world_size,
                ),
                seed=self.seed,
                data_hash=self._data_hash,
                model_hash=content_hash(model),
            )
            content = {
                "manifest": manifest.to_dict(),
                "model": model,
                "loss": loss,
                "optimizer": moments,
                "updates": self._updates.state_dict(),
                "progress": {name: getattr(self, name) for name in _PROGRESS},
                "callbacks": callback_states(self.callbacks),
                "processes": parts,
            }
            write_checkpoint(path, content)
        self.fabric.barrier()

    def load_checkpoint(self, path: str | Path) -> RunManifest:
        """Go on from a checkpoint, in a trainer built like the one that wrote it.

        Args:
            path: What `save_checkpoint` wrote.

        Returns:
            The manifest of the run that wrote it.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged or of a newer schema, its model, optimiser or scheduler
                differs from this trainer's, or the run had another number of processes.
        """
        content = read_checkpoint(path)
        check_scheduler(path, content["updates"], self.scheduler)
        own = own_part(path, content, self._processes)
        restore_run(path, content, self._processes, self._step, self.optimizer)
        self._updates.load_state_dict(content["updates"])
        for name in _PROGRESS:
            setattr(self, name, content["progress"][name])
        restore_callbacks(self.callbacks, content["callbacks"])
        self._means.load_state_dict(own["means"], self.fabric.device)
        self._generator.set_state(own["masker"]["state"])
        self._val_seed = own["masker"]["val_seed"]
        self._position.load_state_dict(own["position"])
        return RunManifest.from_dict(content["manifest"])

    def _share(self, loader: Iterable[Batch], seed: int) -> Iterable[Batch]:
        return share_loader(loader, self._processes.rank, self._processes.world_size, seed)

    def _share_done(self) -> float:
        """The share of `fit` that is done; it follows from the position alone."""
        within = self._position.share(self.train_loader)
        return (self.epoch + within) / (self._num_epochs or 1)

    def _prepare(self, raw: Batch, generator: Generator) -> Batch:
        batch: Batch = move(raw, self.fabric.device)
        return batch if self.masker is None else self.masker(batch, generator)

    def _end_epoch(self, metrics: Mapping[str, float]) -> None:
        self._telling.end_epoch(self, self.epoch, metrics)
        improved = metrics.get("val_loss", float("inf")) < self.best_loss
        if improved:
            self.best_loss = metrics["val_loss"]
        if self.checkpoint_dir is not None:
            self.save_checkpoint(self.checkpoint_dir / "last.ckpt")
            if improved:
                self.save_checkpoint(self.checkpoint_dir / "best.ckpt")
        self._telling.log_epoch(metrics, self.global_step)
