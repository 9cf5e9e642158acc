"""Negative log-likelihoods of a predicted sample, and their sum over the entries that count."""

from collections.abc import Mapping
from typing import Final

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

_LIKELIHOODS: Final = ("auto", "poisson", "gaussian")


def check_likelihood(likelihood: str) -> None:
    """Refuse a likelihood that has no formula here."""
    if likelihood not in _LIKELIHOODS:
        raise ValueError(f"likelihood must be one of {', '.join(_LIKELIHOODS)}, got {likelihood!r}")


def check_weight(weight: float) -> None:
    """Refuse a weight that would flip or poison the objective."""
    if not 0.0 <= weight < float("inf"):
        raise ValueError(f"weight must be a finite number >= 0, got {weight}")


def at_least_float32(x: Tensor) -> Tensor:
    """Lift half precision and integers to float32; float32 and float64 stay."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def nll_sum(
    prediction: Float[Tensor, "*batch time channel"],
    target: Num[Tensor, "*batch time channel"],
    selected: Bool[Tensor, "*batch time channel"],
    *,
    poisson: bool,
) -> Float[Tensor, ""]:
    r"""Sum the negative log-likelihood over the selected entries.

    Poisson, from the log-rate $\eta$: $e^\eta - n\eta + \ln n!$. Gaussian of unit variance, without
    its constant: $\frac12 (x-\mu)^2$, so that a perfect prediction scores zero.
    """
    # The fill comes before the formula: an unselected inf or NaN would survive a product with 0.
    prediction = at_least_float32(prediction).masked_fill(~selected, 0.0)
    target = target.to(prediction.dtype).masked_fill(~selected, 0.0)
    if poisson:
        nll = prediction.exp() - target * prediction + torch.lgamma(target + 1.0)
    else:
        nll = 0.5 * (prediction - target).square()
    return nll.masked_fill(~selected, 0.0).sum()


def nll_mean(
    predictions: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    selected: Mapping[str, Tensor],
    *,
    likelihood: str,
    source: str,
) -> Tensor:
    """Average over all selected entries of all modalities; `source` names the output in errors."""
    total: Tensor | None = None
    for modality, mask in selected.items():
        prediction = _matching(predictions, targets[modality], modality=modality, source=source)
        poisson = likelihood == "poisson" or (likelihood == "auto" and modality == "spike")
        part = nll_sum(prediction, targets[modality], mask, poisson=poisson)
        total = part if total is None else total + part
    if total is None:
        raise ValueError(
            f"there is no modality to score: outputs[{source!r}] has targets for none of "
            f"{sorted(predictions)}; pass a batch with at least one recorded modality"
        )
    return total / count_selected(selected).clamp(min=1).to(total.device)


def count_selected(selected: Mapping[str, Tensor]) -> Tensor:
    """Count the entries behind `nll_mean`, without leaving the device."""
    counts = [mask.count_nonzero() for mask in selected.values()]
    return torch.stack(counts).sum() if counts else torch.zeros((), dtype=torch.long)


def _matching(
    predictions: Mapping[str, Tensor], target: Tensor, *, modality: str, source: str
) -> Tensor:
    if modality not in predictions:
        raise ValueError(
            f"outputs[{source!r}] has no {modality!r}, only {sorted(predictions)}; "
            "build the model with this modality or take it out of the batch"
        )
    prediction = predictions[modality]
    if prediction.shape != target.shape:
        raise ValueError(
            f"outputs[{source!r}][{modality!r}] has shape {tuple(prediction.shape)}, "
            f"its target has {tuple(target.shape)}; they must be equal"
        )
    return prediction
