"""Training objectives that shape the fractal structure of activations."""

from neuros_mechint.fractals._adaptive_prior import AdaptiveFractalPrior
from neuros_mechint.fractals._graph_prior import GraphFractalityPrior
from neuros_mechint.fractals._multifractal_prior import (
    MultifractalSmoothness,
)
from neuros_mechint.fractals._regularization_loss import FractalRegularizationLoss
from neuros_mechint.fractals._spectral_prior import SpectralPrior
from neuros_mechint.fractals._temporal_prior import TemporalScaleInvariance

__all__ = [
    "AdaptiveFractalPrior",
    "FractalRegularizationLoss",
    "GraphFractalityPrior",
    "MultifractalSmoothness",
    "SpectralPrior",
    "TemporalScaleInvariance",
]
