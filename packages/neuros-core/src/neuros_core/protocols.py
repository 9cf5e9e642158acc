"""The structural protocols through which the packages meet without importing each other.

`T` stands for a tensor of whichever library the two sides share; nothing here imports one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

__all__ = ["Callback", "HasActivations", "Objective"]

T = TypeVar("T")


@runtime_checkable
class Objective(Protocol):
    """A term of a training loss: a scalar computed from a model's outputs and its batch.

    The term applies its own `weight`. A regularizer that reads one output alone declares the class
    attribute `reads`, the name of that output, and is called with it instead of with
    `(outputs, batch)`; that is the whole dispatch rule.

    Examples:
        >>> class Energy:
        ...     name, weight = "energy", 0.5
        ...     def __call__(self, outputs, batch):
        ...         return self.weight * outputs["latents"] ** 2
        >>> isinstance(Energy(), Objective), Energy()({"latents": 2.0}, {})
        (True, 2.0)
    """

    name: str
    weight: float

    def __call__(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Any:
        """Return the weighted scalar."""
        ...


@runtime_checkable
class HasActivations(Protocol[T]):
    """A model that reports named activations itself, in place of forward hooks.

    Examples:
        >>> class Doubler:
        ...     def activations(self, batch, names):
        ...         return {name: 2 * batch[name] for name in names}
        >>> isinstance(Doubler(), HasActivations), Doubler().activations({"x": 3}, ["x"])
        (True, {'x': 6})
    """

    def activations(self, batch: Mapping[str, T], names: Sequence[str]) -> Mapping[str, T]:
        """Return the named activations of one forward pass over `batch`."""
        ...


@runtime_checkable
class Callback(Protocol):
    """What a trainer calls while it trains.

    Examples:
        >>> class Count:
        ...     steps = 0
        ...     def on_step_end(self, trainer, step, loss):
        ...         self.steps += 1
        ...     def on_epoch_end(self, trainer, epoch, metrics):
        ...         pass
        >>> isinstance(Count(), Callback)
        True
    """

    def on_step_end(self, trainer: Any, step: int, loss: float) -> None:
        """Run after every optimiser step."""
        ...

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: Mapping[str, float]) -> None:
        """Run after every epoch, with the epoch's mean losses."""
        ...
