"""Train a multimodal model: batches, domain weights, the trainer and its checkpoints."""

from typing import Any

from neuros_neurofm.training._checkpoint_file import load_weights
from neuros_neurofm.training.batching import collate
from neuros_neurofm.training.curriculum import (
    FinetunePhase,
    Plateau,
    PretrainPhase,
    ThreePhaseCurriculum,
    WeightedPhase,
    guard_weights,
    modality_stages,
)
from neuros_neurofm.training.domain_weighting import (
    DomainWeightedLoss,
    DomainWeightedSampler,
    domain_weighted_loss,
)
from neuros_neurofm.training.early_stopping import EarlyStopping
from neuros_neurofm.training.neurofmxx_trainer import DomainWeightedTrainer
from neuros_neurofm.training.neurofmxxx_trainer import ClassConditionalTrainer
from neuros_neurofm.training.trainer import MultiModalTrainer

__all__ = [
    "ClassConditionalTrainer",
    "DomainWeightedLoss",
    "DomainWeightedSampler",
    "DomainWeightedTrainer",
    "EarlyStopping",
    "FinetunePhase",
    "MultiModalTrainer",
    "Plateau",
    "PretrainPhase",
    "ThreePhaseCurriculum",
    "WeightedPhase",
    "collate",
    "domain_weighted_loss",
    "guard_weights",
    "load_weights",
    "modality_stages",
]


def __getattr__(name: str) -> Any:
    # Lightning is an extra and loads slower than torch.
    if name == "NeuroFMXLightningModule":
        from neuros_neurofm.training.lightning_module import NeuroFMXLightningModule

        return NeuroFMXLightningModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
