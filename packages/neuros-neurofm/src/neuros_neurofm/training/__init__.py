"""Train a multimodal model: batches, domain weights, the trainer and its checkpoints."""

from neuros_neurofm.training.batching import collate
from neuros_neurofm.training.domain_weighting import (
    DomainWeightedLoss,
    DomainWeightedSampler,
    domain_weighted_loss,
)
from neuros_neurofm.training.trainer import MultiModalTrainer

__all__ = [
    "DomainWeightedLoss",
    "DomainWeightedSampler",
    "MultiModalTrainer",
    "collate",
    "domain_weighted_loss",
]
