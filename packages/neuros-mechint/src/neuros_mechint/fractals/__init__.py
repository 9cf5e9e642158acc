"""Fractal structure of signals and activations: estimators and training objectives."""

from neuros_mechint.fractals.metrics import HiguchiFractalDimension, SpectralFit, SpectralSlope
from neuros_mechint.fractals.regularizers import SpectralPrior

__all__ = ["HiguchiFractalDimension", "SpectralFit", "SpectralPrior", "SpectralSlope"]
