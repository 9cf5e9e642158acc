"""Where the numbers of a run go, beside its checkpoints."""

import importlib
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from lightning_fabric.utilities.rank_zero import rank_zero_only

__all__: list[str] = []


def _need(module: str, flag: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"--{flag} needs {module}: pip install 'neuros-neurofm[{module}]'"
        ) from error


def build_loggers(
    folder: Path, *, tensorboard: bool, wandb: bool, project: str, mode: str | None
) -> list[Logger]:
    """The loggers that were asked for.

    Raises:
        ImportError: The package of one is not installed; the message names the extra.
    """
    loggers: list[Logger] = []
    if tensorboard:
        _need("tensorboard", "use_tensorboard")
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
    if wandb:
        loggers.append(WandbLogger(_need("wandb", "use_wandb"), folder, project, mode))
    return loggers


class WandbLogger(Logger):
    """A run on Weights & Biases, begun by the first process with its first numbers.

    Args:
        wandb: The package.
        folder: Of the run; its name is the run's.
        project: Where the run is listed.
        mode: `online`, `offline`, or what the package is set to.
    """

    def __init__(self, wandb: Any, folder: Path, project: str, mode: str | None) -> None:
        super().__init__()
        self._wandb = wandb
        self._folder = folder
        self._project = project
        self._mode = mode
        self._run: Any = None

    @property
    def name(self) -> str:
        """Name of the run."""
        return self._folder.resolve().name

    @property
    def version(self) -> str | None:
        """Id of the run, once it has begun."""
        return None if self._run is None else str(self._run.id)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Send numbers."""
        if self._run is None:
            self._run = self._wandb.init(
                project=self._project, name=self.name, dir=str(self._folder), mode=self._mode
            )
        self._run.log(metrics, step=step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing: the configuration lies beside the checkpoint."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run."""
        if self._run is not None:
            self._run.finish(exit_code=0 if status == "success" else 1)
