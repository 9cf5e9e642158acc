"""Estimators of fractal dimension and spectral slope, batched and differentiable."""

from neuros_mechint.fractals._box_counting import BoxCount, BoxCountingDimension
from neuros_mechint.fractals._bundle import (
    FractalMetrics,
    FractalMetricsBundle,
)
from neuros_mechint.fractals._dfa import DetrendedFluctuationAnalysis, DFAResult
from neuros_mechint.fractals._graph_dimension import GraphDimension, GraphFractalDimension
from neuros_mechint.fractals._higuchi import HiguchiFractalDimension
from neuros_mechint.fractals._hurst import HurstExponent
from neuros_mechint.fractals._multifractal import (
    LogCumulants,
    Multifractal,
    MultifractalSpectrum,
)
from neuros_mechint.fractals._spectral import SpectralFit, SpectralSlope

__all__ = [
    "BoxCount",
    "BoxCountingDimension",
    "DFAResult",
    "DetrendedFluctuationAnalysis",
    "FractalMetrics",
    "FractalMetricsBundle",
    "GraphDimension",
    "GraphFractalDimension",
    "HiguchiFractalDimension",
    "HurstExponent",
    "LogCumulants",
    "Multifractal",
    "MultifractalSpectrum",
    "SpectralFit",
    "SpectralSlope",
]
