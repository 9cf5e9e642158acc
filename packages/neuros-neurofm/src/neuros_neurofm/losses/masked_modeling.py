"""Ask a model for the entries that were hidden from it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from neuros_neurofm.losses._likelihood import (
    check_likelihood,
    check_weight,
    count_selected,
    nll_mean,
)

__all__ = ["MaskedModelingLoss"]


class MaskedModelingLoss(nn.Module):
    r"""Mean negative log-likelihood of the hidden entries.

    Poisson for spike counts, from log-rates: $e^\eta - n\eta + \ln n!$; Gaussian of unit variance
    without its constant for every other modality: $\frac12 (x - \mu)^2$. The mean runs over the
    hidden entries of all modalities together; without any the loss is 0 and has a gradient.

    Args:
        likelihood: `auto` as above, or `poisson` or `gaussian` for every modality.
        weight: Factor of the loss, >= 0.
        name: Key of this objective in `CombinedLoss.terms`.

    Raises:
        ValueError: An unknown likelihood, or a weight that is negative or not finite.

    Examples:
        >>> import torch
        >>> from neuros_neurofm.losses import NeuralMasker
        >>> batch = NeuralMasker("random", 1.0)({"eeg": torch.ones(2, 5, 3)}, torch.Generator())
        >>> float(MaskedModelingLoss()({"encoder": {"eeg": torch.zeros(2, 5, 3)}}, batch))
        0.5

    References:
        Ye, J. & Pandarinath, C. (2021). Representation learning for neural population activity with
        Neural Data Transformers. NBDT 5. https://doi.org/10.51628/001c.27358
    """

    def __init__(
        self,
        *,
        likelihood: str = "auto",
        weight: float = 1.0,
        name: str = "masked_modeling",
    ) -> None:
        check_likelihood(likelihood)
        check_weight(weight)
        super().__init__()
        self.likelihood: str = likelihood
        self.weight = weight
        self.name = name

    def forward(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        """Score `outputs["encoder"]` on the entries that `batch["masked"]` marks.

        Args:
            outputs: The model's output; `encoder` is {modality: (batch, time, channel)}.
            batch: What a `NeuralMasker` returned.

        Returns:
            The weighted loss, shape ().

        Raises:
            ValueError: The batch was not masked, or an output is missing or has another shape.
        """
        masked = _masked(batch)
        loss = nll_mean(
            outputs["encoder"],
            batch["targets"],
            masked,
            likelihood=self.likelihood,
            source="encoder",
        )
        return self.weight * loss

    def count(self, batch: Mapping[str, Any]) -> Tensor:
        """Count the entries that the mean runs over.

        Args:
            batch: What a `NeuralMasker` returned.

        Returns:
            The number of hidden entries, shape ().
        """
        return count_selected(_masked(batch))


def _masked(batch: Mapping[str, Any]) -> Mapping[str, Tensor]:
    if "masked" not in batch or "targets" not in batch:
        raise ValueError(
            f"the batch has no 'masked' and 'targets', only {sorted(batch)}; "
            "pass it through a NeuralMasker first"
        )
    masked: Mapping[str, Tensor] = batch["masked"]
    return masked
