"""The adversarial read-out of the pooled latent, and the check of its labels."""

import torch
from torch import Tensor, nn

from neuros_neurofm.models.adversary import DomainDiscriminator, GradientReversal

__all__ = ["DomainHead", "checked_labels"]

_UNKNOWN = -100


class DomainHead(nn.Module):
    """Gradient reversal (strength 0 until the training says otherwise), then the classifier."""

    def __init__(self, dim: int, n_domains: int) -> None:
        super().__init__()
        self.reversal = GradientReversal(lambd=0.0)
        self.discriminator = DomainDiscriminator(dim, n_domains)

    def forward(self, pooled: Tensor, lambd: float | None = None) -> Tensor:
        """The logits, (batch, domain)."""
        logits: Tensor = self.discriminator(self.reversal(pooled, lambd))
        return logits


def checked_labels(
    head: DomainHead | None, labels: Tensor | None, lambd: float | None, *, batch: int
) -> Tensor | None:
    """The labels as int64.

    Raises:
        TypeError: labels that are not integers.
        ValueError: an argument for a discriminator that is not there, another number of labels
            than rows, or a label outside the domains.
    """
    if head is None:
        for name, value in (("species_labels", labels), ("domain_lambda", lambd)):
            if value is not None:
                raise ValueError(
                    f"{name} was given, but the model has no domain discriminator; build it with "
                    f"use_domain_adversarial=True or leave {name} out"
                )
        return None
    if labels is None:
        return None
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"species_labels must be integers, got {labels.dtype}")
    if labels.shape != (batch,):
        raise ValueError(f"species_labels must be (batch,) = ({batch},), got {tuple(labels.shape)}")
    n = head.discriminator.n_domains
    wrong = (labels != _UNKNOWN) & ((labels < 0) | (labels >= n))
    if bool(wrong.any()):
        raise ValueError(
            f"species_labels must lie in [0, n_domains = {n}) or be {_UNKNOWN} (unknown), got "
            f"{sorted(set(labels[wrong].tolist()))[:5]}; build the model with more domains or "
            f"renumber them"
        )
    return labels.long()
