"""Train a multimodal model: batches, domain weights, the trainer and its checkpoints."""

from neuros_neurofm.training.batching import collate
from neuros_neurofm.training.curriculum import (
    FinetunePhase,
    Plateau,
    PretrainPhase,
    ThreePhaseCurriculum,
    WeightedPhase,
    guard_weights,
)
from neuros_neurofm.training.domain_weighting import (
    DomainWeightedLoss,
    DomainWeightedSampler,
    domain_weighted_loss,
)
from neuros_neurofm.training.trainer import MultiModalTrainer

__all__ = [
    "DomainWeightedLoss",
    "DomainWeightedSampler",
    "FinetunePhase",
    "MultiModalTrainer",
    "Plateau",
    "PretrainPhase",
    "ThreePhaseCurriculum",
    "WeightedPhase",
    "collate",
    "domain_weighted_loss",
    "guard_weights",
]
