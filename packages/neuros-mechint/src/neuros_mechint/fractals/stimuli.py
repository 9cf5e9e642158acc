"""Signals, measures and patterns whose fractal structure is known exactly."""

from neuros_mechint.fractals._cascade import MultiplicativeCascade
from neuros_mechint.fractals._colored_noise import ColoredNoise
from neuros_mechint.fractals._fractional_motion import FractionalBrownianMotion

__all__ = ["ColoredNoise", "FractionalBrownianMotion", "MultiplicativeCascade"]
