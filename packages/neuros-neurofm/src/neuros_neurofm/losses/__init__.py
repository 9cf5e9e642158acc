"""Objectives of a multimodal model, and the masking that makes one of them possible."""

from neuros_neurofm.losses.behavior import BehaviorLoss
from neuros_neurofm.losses.combined import CombinedLoss
from neuros_neurofm.losses.contrastive_loss import TriModalContrastiveLoss
from neuros_neurofm.losses.diffusion import DiffusionLoss
from neuros_neurofm.losses.domain_adversarial import DomainAdversarialLoss, MMDLoss
from neuros_neurofm.losses.forecasting import ForecastingLoss, split_future
from neuros_neurofm.losses.masked_modeling import MaskedModelingLoss
from neuros_neurofm.losses.masking import NeuralMasker
from neuros_neurofm.losses.multitask_loss import MultiTaskLossManager

__all__ = [
    "BehaviorLoss",
    "CombinedLoss",
    "DiffusionLoss",
    "DomainAdversarialLoss",
    "ForecastingLoss",
    "MMDLoss",
    "MaskedModelingLoss",
    "MultiTaskLossManager",
    "NeuralMasker",
    "TriModalContrastiveLoss",
    "split_future",
]
