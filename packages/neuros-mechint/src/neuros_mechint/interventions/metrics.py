"""Metrics of a model's output: one value per row of the batch."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuros_mechint.activations._container import first_tensor

__all__ = ["Metric", "cross_entropy", "kl_divergence", "logit_difference"]

Metric = Callable[[Any], Tensor]


def logit_difference(correct: int | Tensor, wrong: int | Tensor, pos: int = -1) -> Metric:
    r"""Metric $z_{correct} - z_{wrong}$ of the logits `z` at one position.

    Args:
        correct: Class or token, one for all rows or shape (batch,).
        wrong: As `correct`.
        pos: Position in logits of shape (batch, time, class); (batch, class) has none.

    Returns:
        Function of an output (logits, or a container with `logits` or a first tensor) that gives
        shape (batch,).

    Raises:
        ValueError: At the call, when the logits do not have two or three dimensions.

    Examples:
        >>> logit_difference(1, 0)(torch.tensor([[0.5, 2.0], [1.0, 1.0]]))
        tensor([1.5000, 0.0000])
    """

    def metric(output: Any) -> Tensor:
        logits = _logits(output)
        if logits.ndim == 3:
            logits = logits[:, pos]
        if logits.ndim != 2:
            raise ValueError(
                f"logits need shape (batch, class) or (batch, time, class), got "
                f"{tuple(logits.shape)}"
            )
        return _pick(logits, correct) - _pick(logits, wrong)

    return metric


def kl_divergence(reference: Any) -> Metric:
    r"""Metric $D_{KL}(p \Vert q) = \sum_c p_c \ln (p_c / q_c)$ of the output `q` from a reference.

    Args:
        reference: Output of the run that gives `p`, in the form of the model's outputs.

    Returns:
        Function of an output that gives shape (batch,) in nats, averaged over positions.

    Raises:
        ValueError: At the call, when the logits have another shape than the reference's.

    Examples:
        >>> p = torch.tensor([[0.5, 0.5]]).log()
        >>> q = torch.tensor([[0.25, 0.75]]).log()
        >>> round(kl_divergence(p)(q).item(), 6)  # ln 2 - ln(3) / 2
        0.143841
    """
    expected = _logits(reference).detach().log_softmax(-1)

    def metric(output: Any) -> Tensor:
        logits = _logits(output)
        if logits.shape != expected.shape:
            raise ValueError(
                f"logits of shape {tuple(logits.shape)} do not fit the reference's "
                f"{tuple(expected.shape)}"
            )
        return _mean_per_row(_divergence(expected, logits.log_softmax(-1)))

    return metric


def cross_entropy(labels: Tensor) -> Metric:
    r"""Metric $-\ln q_{label}$ of the output `q`, averaged over positions.

    Args:
        labels: Classes, shape (batch,) for logits (batch, class) and (batch, time) for logits
            (batch, time, class); -100 leaves a position out.

    Returns:
        Function of an output that gives shape (batch,) in nats; NaN for a row without a label.

    Raises:
        ValueError: At the call, when the labels do not fit the logits.

    Examples:
        >>> cross_entropy(torch.tensor([0]))(torch.zeros(1, 2))  # ln 2
        tensor([0.6931])
    """

    def metric(output: Any) -> Tensor:
        logits = _logits(output)
        if logits.shape[:-1] != labels.shape:
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} do not fit logits of shape "
                f"{tuple(logits.shape)}; one label per row and position is needed"
            )
        return _entropy_per_row(logits, labels.to(logits.device))

    return metric


def measured(metric: Metric, output: Any) -> Tensor:
    """Apply a metric and check that it returns a tensor."""
    value: object = metric(output)
    if not isinstance(value, Tensor):
        raise TypeError(f"metric needs to return a tensor, got {type(value).__name__}")
    return value


def mean_value(values: Tensor) -> float:
    """Mean over rows in float64, where half or single precision would lose the small effects."""
    return float(values.detach().double().mean())


def _logits(output: Any) -> Tensor:
    """Find the logits in an output: named so, or else its first tensor."""
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else None
    found = getattr(output, "logits", named)
    return found if isinstance(found, Tensor) else first_tensor(output)


def _pick(logits: Float[Tensor, "batch cls"], which: int | Tensor) -> Float[Tensor, "batch"]:
    if isinstance(which, int):
        return logits[:, which]
    return logits.gather(1, which.to(logits.device).reshape(-1, 1).expand(len(logits), 1))[:, 0]


def _divergence(
    p: Float[Tensor, "batch *pos cls"], q: Float[Tensor, "batch *pos cls"]
) -> Float[Tensor, "batch *pos"]:
    return torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)


def _entropy_per_row(
    logits: Float[Tensor, "batch *pos cls"], labels: Int[Tensor, "batch *pos"]
) -> Float[Tensor, "batch"]:
    valid = labels != -100
    log_q = logits.log_softmax(-1).gather(-1, labels.where(valid, 0)[..., None])[..., 0]
    total = -(log_q * valid).reshape(len(labels), -1).sum(-1)
    return total / valid.reshape(len(labels), -1).sum(-1)


def _mean_per_row(values: Float[Tensor, "batch *pos"]) -> Float[Tensor, "batch"]:
    return values.reshape(len(values), -1).mean(-1)
