"""Ask a model for the samples that follow its input."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuros_core import Modality
from neuros_neurofm.losses._likelihood import (
    check_likelihood,
    check_weight,
    count_selected,
    nll_mean,
)

__all__ = ["ForecastingLoss", "split_future"]


class ForecastingLoss(nn.Module):
    r"""Mean negative log-likelihood of the `horizon` samples after the input.

    The likelihoods are those of `MaskedModelingLoss`. `split_future` makes the batch.

    Args:
        horizon: Samples ahead, >= 1, per modality in its own samples.
        likelihood: `auto` (Poisson for spikes, else Gaussian), `poisson` or `gaussian`.
        weight: Factor of the loss, >= 0.
        name: Key of this objective in `CombinedLoss.terms`.

    Raises:
        ValueError: A horizon below 1, an unknown likelihood, or a weight that is negative or not
            finite.

    Examples:
        >>> import torch
        >>> batch = split_future({"lfp": torch.arange(6.0).reshape(1, 6, 1)}, 2)
        >>> float(ForecastingLoss(2)({"forecast": {"lfp": torch.tensor([[[4.0], [5.0]]])}}, batch))
        0.0
    """

    def __init__(
        self,
        horizon: int,
        *,
        likelihood: str = "auto",
        weight: float = 1.0,
        name: str = "forecasting",
    ) -> None:
        _check_horizon(horizon)
        check_likelihood(likelihood)
        check_weight(weight)
        super().__init__()
        self.horizon = horizon
        self.likelihood: str = likelihood
        self.weight = weight
        self.name = name

    def forward(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        """Score `outputs["forecast"]` on `batch["future"]`.

        Args:
            outputs: The model's output; `forecast` is {modality: (batch, horizon, channel)}.
            batch: What `split_future` returned.

        Returns:
            The weighted loss, shape (); 0 with a gradient when no future entry is valid.

        Raises:
            ValueError: The batch has no future or one of another length, or an output is missing or
                has another shape.
        """
        valid = self._valid(batch)
        loss = nll_mean(
            outputs["forecast"],
            batch["future"],
            valid,
            likelihood=self.likelihood,
            source="forecast",
        )
        return self.weight * loss

    def count(self, batch: Mapping[str, Any]) -> Tensor:
        """Count the entries that the mean runs over.

        Args:
            batch: What `split_future` returned.

        Returns:
            The number of valid future entries, shape ().
        """
        return count_selected(self._valid(batch))

    def _valid(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        if "future" not in batch:
            raise ValueError(
                f"the batch has no 'future', only {sorted(batch)}; "
                f"pass it through split_future(batch, {self.horizon}) first"
            )
        masks = batch.get("future_masks") or {}
        valid = {}
        for modality, x in batch["future"].items():
            if x.shape[1] != self.horizon:
                raise ValueError(
                    f"batch['future'][{modality!r}] has {x.shape[1]} samples, "
                    f"the loss needs horizon = {self.horizon}; split the batch with this horizon"
                )
            mask = masks.get(modality)
            every = torch.ones(x.shape, dtype=torch.bool, device=x.device)
            valid[modality] = every if mask is None else mask & every
        return valid


def split_future(batch: Mapping[str, Any], horizon: int) -> dict[str, Any]:
    """Cut the last `horizon` samples off every modality and keep them as targets.

    Args:
        batch: A `neuros_core.Batch` of tensors; modalities are (batch, time, channel).
        horizon: Samples to cut off, at least one less than the shortest modality has.

    Returns:
        A batch of the earlier samples (with their `masks` and `times`), and the keys `future` and
        `future_masks`: {modality: (batch, horizon, channel)}.

    Raises:
        ValueError: A horizon below 1, no modality, or one of `horizon` samples or fewer.

    Examples:
        >>> import torch
        >>> split = split_future({"eeg": torch.arange(5).reshape(1, 5, 1)}, 2)
        >>> split["eeg"].flatten().tolist(), split["future"]["eeg"].flatten().tolist()
        ([0, 1, 2], [3, 4])
    """
    _check_horizon(horizon)
    values = {str(m): batch[m] for m in Modality if m in batch}
    if not values:
        raise ValueError(
            f"the batch has no modality, only {sorted(batch)}; "
            f"it needs at least one of {', '.join(Modality)}"
        )
    for modality, x in values.items():
        if x.shape[1] <= horizon:
            raise ValueError(
                f"batch[{modality!r}] needs more than horizon = {horizon} samples, "
                f"got {x.shape[1]}; lower the horizon or use longer windows"
            )
    masks = {
        m: mask.expand_as(values[m])
        for m, mask in (batch.get("masks") or {}).items()
        if m in values
    }
    past: dict[str, Any] = {**batch, **_before(values, horizon)}
    for key in ("masks", "times"):
        if batch.get(key) is not None:
            past[key] = _before(masks if key == "masks" else batch[key], horizon)
    past["future"] = {m: x[:, -horizon:] for m, x in values.items()}
    past["future_masks"] = {m: x[:, -horizon:] for m, x in masks.items()}
    return past


def _before(parts: Mapping[str, Tensor], horizon: int) -> dict[str, Tensor]:
    return {m: x[:, :-horizon] for m, x in parts.items()}


def _check_horizon(horizon: int) -> None:
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1 sample, got {horizon}")
