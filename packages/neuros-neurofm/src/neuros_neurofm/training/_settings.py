"""What trainers with weights hand on to `MultiModalTrainer`, which describes it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from neuros_core import Callback
from neuros_neurofm.training._processes import Devices
from neuros_neurofm.training._setup import Masker, OptimizerFactory

if TYPE_CHECKING:
    from lightning_fabric.loggers.logger import Logger

__all__: list[str] = []


class TrainerSettings(TypedDict, total=False):
    """Every argument of `MultiModalTrainer` but model, loader and loss."""

    val_loader: Iterable[Mapping[str, Any]] | None
    optimizer: Optimizer | OptimizerFactory | None
    masker: Masker | None
    device: str
    mixed_precision: bool
    precision: str | None
    gradient_accumulation_steps: int
    max_grad_norm: float | None
    scheduler: LRScheduler | Callable[[Optimizer], LRScheduler] | None
    strategy: str
    devices: Devices
    loggers: "Sequence[Logger]"
    callbacks: Sequence[Callback]
    checkpoint_dir: str | Path | None
    seed: int | None
    compile: bool
    data_hash: str | None
    progress: bool
