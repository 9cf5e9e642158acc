"""Objectives of a multimodal model, and the masking that makes one of them possible."""

from neuros_neurofm.losses.behavior import BehaviorLoss
from neuros_neurofm.losses.combined import CombinedLoss
from neuros_neurofm.losses.forecasting import ForecastingLoss, split_future
from neuros_neurofm.losses.masked_modeling import MaskedModelingLoss
from neuros_neurofm.losses.masking import NeuralMasker

__all__ = [
    "BehaviorLoss",
    "CombinedLoss",
    "ForecastingLoss",
    "MaskedModelingLoss",
    "NeuralMasker",
    "split_future",
]
