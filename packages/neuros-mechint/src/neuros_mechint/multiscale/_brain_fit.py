"""Parameters of a brain from what was measured, by gradient descent."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from neuros_mechint.multiscale._brain_outputs import correlation

__all__ = ["BrainFit", "Loss", "check_fit", "descend"]

Result: TypeAlias = dict[str, Tensor]
Loss: TypeAlias = str | Callable[[Result, Tensor], Tensor]


class BrainFit(NamedTuple):
    """Parameters of the smallest loss.

    Attributes:
        params: Value of each parameter.
        loss: Loss before every step and after the last, (steps + 1,).
    """

    params: dict[str, Tensor]
    loss: Tensor


def descend(
    simulate: Callable[[Mapping[str, Tensor]], Result],
    start: Mapping[str, Tensor],
    target: Tensor,
    *,
    loss: Loss,
    lr: float,
    steps: int,
) -> BrainFit:
    """Adam on the logarithm of each parameter's ratio to its start.

    Parameters keep their sign and move by about a factor e^lr in a step, whatever their unit; one
    that starts at 0 moves by lr.
    """
    measure = _bold_loss if isinstance(loss, str) else loss
    moves = {name: torch.zeros_like(x, requires_grad=True) for name, x in start.items()}

    def values() -> dict[str, Tensor]:
        return {
            name: torch.where(x == 0, moves[name], x * moves[name].exp())
            for name, x in start.items()
        }

    optimizer = torch.optim.Adam(moves.values(), lr=lr)
    losses: list[float] = []
    best: dict[str, Tensor] = {}
    for k in range(steps + 1):
        optimizer.zero_grad()
        now = values()
        value = measure(simulate(now), target)
        losses.append(float(value.detach()))
        if k == 0 and math.isnan(losses[0]):
            raise ValueError(
                "the loss is NaN at the start; check target and parameters, or lower dt"
            )
        if losses[-1] <= min(losses):
            best = {name: x.detach().clone() for name, x in now.items()}
        if k < steps:
            torch.autograd.backward(value)
            optimizer.step()
    return BrainFit(best, torch.tensor(losses))


def _bold_loss(result: Result, target: Tensor) -> Tensor:
    """Mean squared difference of the correlations of the regions' BOLD signals."""
    found = correlation(result["bold"])
    n = found.shape[-1]
    row, column = torch.triu_indices(n, n, 1, device=found.device).unbind()
    return (found[..., row, column] - target.to(found)[..., row, column]).square().mean()


def check_fit(names: Sequence[str], lr: float, steps: int) -> None:
    """Refuse settings that fit nothing.

    Raises:
        ValueError: When no parameter is named, lr is not positive, or there are no steps.
    """
    if not names:
        raise ValueError("params names no parameter; name those to fit")
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
