"""How a coder is trained, and what training reports."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from neuros_core.errors import check_choice

__all__ = ["Recipe", "Revive", "StepCallback", "TrainLog"]

Revive = Literal["auxk", "resample"]


@runtime_checkable
class StepCallback(Protocol):
    """What training calls after every step and every epoch; `neuros_core`'s `Callback` is one."""

    def on_step_end(self, trainer: Any, step: int, loss: float) -> None:
        """Take note of a step."""

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: dict[str, float]) -> None:
        """Take note of an epoch."""


@dataclass(frozen=True, eq=False)
class TrainLog:
    """Course of a training run.

    Attributes:
        steps: Number of optimizer steps.
        tokens: Number of rows seen.
        loss: Training loss of each step, shape (step,).
        l0: Mean number of active features of each step, shape (step,).
        terms: Parts of the loss by name, each of shape (step,); 0 where a step had no such part.
        dead_fraction: Share of features that are dead at the end.
        revived: Number of features that resampling started anew.

    Examples:
        >>> import torch
        >>> zeros = torch.zeros(2)
        >>> TrainLog(2, 64, zeros, zeros, {"mse": zeros}, 0.0, 0).tokens
        64
    """

    steps: int
    tokens: int
    loss: Tensor
    l0: Tensor
    terms: dict[str, Tensor]
    dead_fraction: float
    revived: int


@dataclass(frozen=True)
class Recipe:
    """How a coder is trained."""

    lr: float | None
    revive: Revive | None
    dead_after: int | None
    batch_size: int
    callbacks: tuple[StepCallback, ...] = ()

    def __post_init__(self) -> None:
        if self.revive is not None:
            check_choice("revive", self.revive, ("auxk", "resample"))
        for name in ("lr", "dead_after", "batch_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} needs a number above 0, got {value}")
