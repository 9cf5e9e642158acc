"""The step from losses of several batches to one gradient that may be applied."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_MAX_SKIPPED_IN_A_ROW = 10


def check_skipped(in_a_row: int) -> None:
    """A gradient that stays infinite will not become finite by itself.

    Raises:
        FloatingPointError: More than 10 steps in a row were skipped.
    """
    if in_a_row > _MAX_SKIPPED_IN_A_ROW:
        raise FloatingPointError(
            f"{in_a_row} steps in a row had a NaN or infinite gradient, at most "
            f"{_MAX_SKIPPED_IN_A_ROW} are skipped; lower the learning rate or look for bad "
            "values in the data"
        )


def weighted_sum(
    terms: Mapping[str, Tensor], counts: Mapping[str, Tensor], totals: Mapping[str, Tensor]
) -> Tensor:
    """The loss of one batch as its share of the loss over all batches of a step.

    A mean over the rows of all batches is the mean of the batches' means, each weighted by its
    share of the targets.
    """
    shares = {name: counts[name] / totals[name].clamp(min=1) for name in terms}
    return torch.stack([x * shares[name].to(x.device) for name, x in terms.items()]).sum()


def clip_gradient(optimizer: Optimizer, max_norm: float | None) -> bool:
    """Clip the gradient; False where it is not finite."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    # Sharded and whole tensors are not computed with in one call.
    kinds = [[p for p in parameters if hasattr(p, "device_mesh") is flag] for flag in (False, True)]
    norm = torch.stack([_norm(kind) for kind in kinds if kind]).norm()
    if max_norm is not None:
        for kind in kinds:
            nn.utils.clip_grads_with_norm_(kind, max_norm, norm)
    return bool(norm.isfinite())


def _norm(parameters: list[nn.Parameter]) -> Tensor:
    norm: Any = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return whole
