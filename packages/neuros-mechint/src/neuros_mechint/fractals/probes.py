"""Probes of a model: its fractal dimensions over time, its attention, its time scales."""

from neuros_mechint.fractals._attention_coupling import AttentionFractalCoupling, Coupling
from neuros_mechint.fractals._latent_tracker import LatentFD, LatentFDTracker
from neuros_mechint.fractals._scale_effects import CausalScaleAblation, ScaleEffects

__all__ = [
    "AttentionFractalCoupling",
    "CausalScaleAblation",
    "Coupling",
    "LatentFD",
    "LatentFDTracker",
    "ScaleEffects",
]
