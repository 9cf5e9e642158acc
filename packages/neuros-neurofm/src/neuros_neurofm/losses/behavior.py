"""Ask a model for what the animal did."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from neuros_neurofm.losses._likelihood import at_least_float32, check_weight

__all__ = ["BehaviorLoss"]


class BehaviorLoss(nn.Module):
    r"""Mean squared error of a continuous behaviour, cross-entropy of a labelled one.

    Continuous: mean of $(y - \hat y)^2$ over the valid queries and all dimensions. Integer labels:
    mean of $-\ln \mathrm{softmax}(\hat y)_y$ over the valid queries. A batch without behaviour (a
    recording that has none) gives 0 with a gradient.

    Args:
        weight: Factor of the loss, >= 0.
        name: Key of this objective in `CombinedLoss.terms`.

    Raises:
        ValueError: A weight that is negative or not finite.

    Examples:
        >>> import torch
        >>> batch = {"behavior": torch.tensor([[[3.0], [9.0]]]),
        ...          "behavior_mask": torch.tensor([[True, False]])}
        >>> float(BehaviorLoss()({"decoder": torch.ones(1, 2, 1)}, batch))
        4.0
    """

    def __init__(self, *, weight: float = 1.0, name: str = "behavior") -> None:
        check_weight(weight)
        super().__init__()
        self.weight = weight
        self.name = name

    def forward(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        """Score `outputs["decoder"]` on `batch["behavior"]`.

        Args:
            outputs: The model's output; `decoder` is (batch, query, dim), or (batch, query, class)
                for labels.
            batch: With `behavior`, (batch, query, dim) floats or (batch, query[, 1]) integers, and
                optionally `behavior_mask`, (batch, query), True = valid.

        Returns:
            The weighted loss, shape ().

        Raises:
            ValueError: Shapes that do not match, or (on the CPU) a valid label outside the classes.
        """
        prediction = at_least_float32(outputs["decoder"])
        behavior = batch.get("behavior")
        if behavior is None:
            nothing = torch.zeros_like(prediction, dtype=torch.bool)
            return prediction.masked_fill(~nothing, 0.0).sum()
        valid = _valid_queries(batch, behavior)
        if behavior.is_floating_point():
            _check_shape(prediction.shape, behavior.shape)
            total = _squared_error_sum(prediction, behavior.to(prediction.dtype), valid)
        else:
            labels = behavior.squeeze(-1) if behavior.ndim == 3 else behavior
            _check_shape(prediction.shape[:2], labels.shape)
            total = _cross_entropy_sum(prediction, labels.long(), valid)
        return self.weight * total / self.count(batch).clamp(min=1)

    def count(self, batch: Mapping[str, Any]) -> Tensor:
        """Count the entries that the mean runs over.

        Args:
            batch: As for the call.

        Returns:
            Valid queries times dimensions, or valid queries for labels, shape ().
        """
        behavior = batch.get("behavior")
        if behavior is None:
            return torch.zeros((), dtype=torch.long)
        n_dims = behavior.shape[-1] if behavior.is_floating_point() else 1
        return _valid_queries(batch, behavior).sum() * n_dims


def _valid_queries(batch: Mapping[str, Any], behavior: Tensor) -> Tensor:
    mask: Tensor | None = batch.get("behavior_mask")
    if mask is None:
        return torch.ones(behavior.shape[:2], dtype=torch.bool, device=behavior.device)
    if mask.shape != behavior.shape[:2]:
        raise ValueError(
            f"behavior_mask must be (batch, query) = {tuple(behavior.shape[:2])}, "
            f"got {tuple(mask.shape)}"
        )
    return mask


def _check_shape(prediction: torch.Size, target: torch.Size) -> None:
    if prediction != target:
        raise ValueError(
            f"the decoder's shape {tuple(prediction)} must equal that of the behaviour "
            f"{tuple(target)}; set behavior_dim or the query times accordingly"
        )


def _squared_error_sum(
    prediction: Float[Tensor, "batch query dim"],
    target: Float[Tensor, "batch query dim"],
    valid: Bool[Tensor, "batch query"],
) -> Float[Tensor, ""]:
    # The fill comes before the difference: NaN marks what was not recorded.
    error = (prediction - target.masked_fill(~valid[..., None], 0.0)).masked_fill(
        ~valid[..., None], 0.0
    )
    return error.square().sum()


def _cross_entropy_sum(
    logits: Float[Tensor, "batch query class"],
    labels: Int[Tensor, "batch query"],
    valid: Bool[Tensor, "batch query"],
) -> Float[Tensor, ""]:
    labels = labels.masked_fill(~valid, 0)
    n_classes = logits.shape[-1]
    # Only where looking at the labels does not wait for a device.
    on_cpu = labels.device.type == "cpu" and labels.numel() > 0
    if on_cpu and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        raise ValueError(
            f"labels must lie in [0, {n_classes}), the decoder's last axis, got "
            f"[{int(labels.min())}, {int(labels.max())}]; set behavior_dim to the number of classes"
        )
    nll = -logits.log_softmax(dim=-1).gather(-1, labels[..., None]).squeeze(-1)
    return nll.masked_fill(~valid, 0.0).sum()
