"""Signals, measures and patterns whose fractal structure is known exactly."""

from neuros_mechint.fractals._cascade import MultiplicativeCascade
from neuros_mechint.fractals._colored_noise import ColoredNoise
from neuros_mechint.fractals._fractional_motion import FractionalBrownianMotion
from neuros_mechint.fractals._patterns import FractalPatterns
from neuros_mechint.fractals._suite import (
    Benchmark,
    Evaluation,
    EvaluationTable,
    FractalTimeSeries,
)

__all__ = [
    "Benchmark",
    "ColoredNoise",
    "Evaluation",
    "EvaluationTable",
    "FractalPatterns",
    "FractalTimeSeries",
    "FractionalBrownianMotion",
    "MultiplicativeCascade",
]
