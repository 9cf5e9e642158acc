"""Watching a training: analyses of activations that leave the training as it would have been."""

import functools
from collections.abc import Hashable, Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

from neuros_mechint.activations._analyses import AnalysisContext, register_analysis
from neuros_mechint.activations._probe import Forward
from neuros_mechint.activations._results import scalars
from neuros_mechint.activations._training_hooks import TrainingHooks
from neuros_mechint.activations.site import SiteLike

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["AnalysisContext", "MechIntCallback", "TrainingHooks", "register_analysis"]


class MechIntCallback:
    """Run analyses of activations during a training with Lightning, without changing it.

    An object is a `lightning.pytorch.Callback`: after every n-th epoch it runs the analyses on the
    first batches that the training saw, writes them as `TrainingHooks` does, and logs every single
    number as `mechint/<analysis>/<quantity>`. With several processes, the first one does.

    It is a `neuros_core.Callback` too. Where Lightning is not installed, use `TrainingHooks`, which
    takes the same arguments.

    Args:
        analyses: Names of analyses, as in `TrainingHooks`.
        analysis_configs: Name -> keyword arguments of that analysis.
        sites: Where activations are read, in the LightningModule.
        every_n_epochs: After how many epochs the analyses run.
        max_batches: Most probe batches.
        out_dir: Folder of the results.
        probe: Batches to analyse; None copies the first `max_batches` of the training.
        forward: Runs the model on a batch, as in `TrainingHooks`.
        seed: Seed of the generator that the analyses draw from.

    Raises:
        ImportError: When Lightning is not installed.
        TypeError: When an analysis does not take its configuration.
        ValueError: For the reasons of `TrainingHooks`.

    Examples:
        >>> callback = MechIntCallback(["fractal_dims"], sites=["encoder"], out_dir="out")
        >>> from lightning.pytorch import Callback
        >>> isinstance(callback, Callback), callback.hooks.max_batches
        (True, 4)

    References:
        Falcon, W. & the PyTorch Lightning team (2019). PyTorch Lightning.
        doi:10.5281/zenodo.3828935
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Any:
        """Make an object of this class that is a Lightning callback as well.

        Lightning is optional and slow to import, so its class joins when the first object is made.
        """
        return super().__new__(_with_lightning(cast("Hashable", cls)))

    def __init__(
        self,
        analyses: Iterable[str],
        analysis_configs: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        sites: Iterable[SiteLike],
        every_n_epochs: int = 1,
        max_batches: int = 4,
        out_dir: str | PathLike[str],
        probe: Iterable[Any] | None = None,
        forward: Forward | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.hooks = TrainingHooks(
            analyses,
            analysis_configs,
            sites=sites,
            every_n_epochs=every_n_epochs,
            max_batches=max_batches,
            out_dir=out_dir,
            probe=probe,
            forward=forward,
            seed=seed,
        )

    def __reduce__(self) -> Any:
        return _rebuilt, (type(self).__mro__[1], vars(self))

    def on_train_batch_end(
        self, trainer: "Trainer", pl_module: "LightningModule", _outputs: Any, batch: Any, _: int
    ) -> None:
        """Take note of a step; Lightning calls this.

        Args:
            trainer: The trainer.
            pl_module: The model in training.
            batch: What the step was trained on.
        """
        if trainer.is_global_zero:
            self.hooks.step(pl_module, batch, trainer.global_step)

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Evaluate after every n-th epoch; Lightning calls this.

        Args:
            trainer: The trainer.
            pl_module: The model in training.
        """
        epoch = trainer.current_epoch + 1
        if not trainer.is_global_zero or epoch % self.hooks.every_n_epochs:
            return
        results = self.hooks.evaluate(pl_module, epoch)
        logged = {f"mechint/{quantity}": value for quantity, value in scalars(results)}
        pl_module.log_dict(logged, rank_zero_only=True)

    def on_step_end(self, trainer: Any, step: int, loss: float) -> None:
        """Take note of a trainer's step; part of `neuros_core.Callback`.

        Args:
            trainer: Anything with the attribute `model`.
            step: Number of the step.
            loss: Its loss.
        """
        self.hooks.on_step_end(trainer, step, loss)

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: Mapping[str, float]) -> None:
        """Evaluate after every n-th epoch; part of `neuros_core.Callback`.

        Args:
            trainer: Anything with the attribute `model`.
            epoch: Number of completed epochs.
            metrics: The epoch's losses.
        """
        self.hooks.on_epoch_end(trainer, epoch, metrics)


@functools.cache
def _with_lightning(cls: type) -> type:
    """Subclass of a class that is a Lightning callback as well."""
    try:
        from lightning.pytorch import Callback
    except ImportError as error:
        raise ImportError(
            "MechIntCallback needs Lightning: pip install 'neuros-mechint[lightning]'; without it, "
            "TrainingHooks takes the same arguments and serves any loop"
        ) from error
    if issubclass(cls, Callback):
        return cls
    names = {"__doc__": cls.__doc__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (cls, Callback), names)


def _rebuilt(cls: type[MechIntCallback], state: Mapping[str, Any]) -> MechIntCallback:
    # The joined class has no name under which a pickle could find it again.
    callback: MechIntCallback = cls.__new__(cls)
    vars(callback).update(state)
    return callback
