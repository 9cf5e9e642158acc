"""Fractal structure of signals and activations: estimators and training objectives."""

from neuros_mechint.fractals.metrics import (
    BoxCount,
    BoxCountingDimension,
    DetrendedFluctuationAnalysis,
    DFAResult,
    HiguchiFractalDimension,
    HurstExponent,
    SpectralFit,
    SpectralSlope,
)
from neuros_mechint.fractals.regularizers import SpectralPrior
from neuros_mechint.fractals.stimuli import (
    ColoredNoise,
    FractionalBrownianMotion,
    MultiplicativeCascade,
)

__all__ = [
    "BoxCount",
    "BoxCountingDimension",
    "ColoredNoise",
    "DFAResult",
    "DetrendedFluctuationAnalysis",
    "FractionalBrownianMotion",
    "HiguchiFractalDimension",
    "HurstExponent",
    "MultiplicativeCascade",
    "SpectralFit",
    "SpectralPrior",
    "SpectralSlope",
]
