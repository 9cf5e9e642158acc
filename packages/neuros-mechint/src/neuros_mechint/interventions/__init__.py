"""Interventions: putting one run's activations into another, and measuring what that changes."""

from neuros_mechint.interventions.metrics import (
    Metric,
    cross_entropy,
    kl_divergence,
    logit_difference,
)
from neuros_mechint.interventions.patching import ActivationPatcher, PatchResult, recovery

__all__ = [
    "ActivationPatcher",
    "Metric",
    "PatchResult",
    "cross_entropy",
    "kl_divergence",
    "logit_difference",
    "recovery",
]
