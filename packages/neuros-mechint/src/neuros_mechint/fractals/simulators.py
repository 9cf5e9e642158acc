"""Simulators of processes and networks whose fractal structure is known."""

from neuros_mechint.fractals._dendrite import DendriteGrowthSimulator, DendriteTree
from neuros_mechint.fractals._network_model import FractalNetworkModel
from neuros_mechint.fractals._ornstein_uhlenbeck import FractionalOU

__all__ = ["DendriteGrowthSimulator", "DendriteTree", "FractalNetworkModel", "FractionalOU"]
