"""Add objectives, also ones from other packages."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from neuros_neurofm.losses._likelihood import at_least_float32

__all__ = ["CombinedLoss"]

Objective: TypeAlias = Callable[..., Tensor]


class CombinedLoss(nn.Module):
    r"""Sum of objectives, $\sum_j L_j$, each of which applies its own weight.

    An objective with an attribute `reads` (the name of one model output, as the regularizers of
    other packages have) is called with that output; any other is called with (outputs, batch).
    Objectives that are modules are submodules of this one: their buffers and parameters are saved
    and moved with it.

    Args:
        objectives: At least one. `name` is the key in `terms`; without it the class's name is.

    Raises:
        ValueError: No objective, two of the same name, or one named `loss`.
        TypeError: An objective that cannot be called.

    Examples:
        >>> import torch
        >>> from neuros_neurofm.losses import BehaviorLoss
        >>> loss = CombinedLoss([BehaviorLoss(), BehaviorLoss(weight=0.5, name="again")])
        >>> batch = {"behavior": torch.full((1, 2, 1), 2.0)}
        >>> float(loss({"decoder": torch.zeros(1, 2, 1)}, batch))
        6.0
        >>> {name: float(value) for name, value in loss.terms.items()}
        {'behavior': 4.0, 'again': 2.0}
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        super().__init__()
        names = [_name(objective) for objective in objectives]
        if not names:
            raise ValueError("objectives must hold at least one objective, got none")
        if "loss" in names:
            raise ValueError("'loss' is the name of the sum; give the objective another name")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                f"objectives need different names, got {repeated} more than once; "
                "give one of them another name"
            )
        self.objectives = dict(zip(names, objectives, strict=True))
        # A plain dict keeps the order and objectives that are not modules; this list registers
        # those that are.
        self.modules_of_objectives = nn.ModuleList(
            objective for objective in objectives if isinstance(objective, nn.Module)
        )
        self._terms: dict[str, Tensor] = {}

    @property
    def terms(self) -> dict[str, Tensor]:
        """Detached values of the last call, {name: shape ()}; empty before it."""
        return dict(self._terms)

    def forward(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        """Call every objective and add the values.

        Args:
            outputs: The model's output, read by key.
            batch: The batch that the output belongs to.

        Returns:
            The sum, shape ().

        Raises:
            ValueError: An objective that returns no scalar, or reads an output that is not there.
        """
        return torch.stack(list(self.evaluate(outputs, batch).values())).sum()

    def evaluate(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Call every objective and keep the values apart, with their gradients.

        Args:
            outputs: The model's output, read by key.
            batch: The batch that the output belongs to.

        Returns:
            {name: shape ()} in the order of the objectives.

        Raises:
            ValueError: An objective that returns no scalar, or reads an output that is not there.
        """
        values = {
            name: _call(name, objective, outputs, batch)
            for name, objective in self.objectives.items()
        }
        self._terms = {name: value.detach() for name, value in values.items()}
        return values

    def counts(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Say how many targets the mean of every objective runs over.

        With these, means over parts of a batch add up to the mean over the whole. An objective
        without a method `count` (a regularizer) counts the rows of the batch.

        Args:
            batch: The batch, masked where an objective needs it.

        Returns:
            {name: shape ()}.
        """
        counts = {}
        for name, objective in self.objectives.items():
            count = getattr(objective, "count", None)
            counts[name] = torch.tensor(_n_rows(batch)) if count is None else count(batch)
        return counts


def _name(objective: Objective) -> str:
    if not callable(objective):
        raise TypeError(f"an objective must be callable, got {type(objective).__name__}")
    return str(getattr(objective, "name", type(objective).__name__))


def _call(
    name: str, objective: Objective, outputs: Mapping[str, Any], batch: Mapping[str, Any]
) -> Tensor:
    reads: str | None = getattr(objective, "reads", None)
    if reads is None:
        value = objective(outputs, batch)
    else:
        try:
            read = outputs[reads]
        except (KeyError, AttributeError) as error:
            raise ValueError(
                f"the objective {name!r} reads the output {reads!r}, which the model does not "
                "return; choose another output or another model"
            ) from error
        value = objective(read)
    if value.ndim != 0:
        raise ValueError(
            f"the objective {name!r} must return a scalar, got shape {tuple(value.shape)}"
        )
    return at_least_float32(value)


def _n_rows(batch: Mapping[str, Any]) -> int:
    for value in batch.values():
        if isinstance(value, Tensor) and value.ndim:
            return value.shape[0]
    raise ValueError(f"the batch has no tensor to count rows of, only {sorted(batch)}")
