"""Spiking networks and the surrogate gradients that train them."""

from neuros_mechint.biophysical.spiking_network import SNNOutput, SNNTrace, SpikingNeuralNetwork
from neuros_mechint.biophysical.surrogate import SURROGATES, Surrogate, SurrogateGradient, spike

__all__ = [
    "SURROGATES",
    "SNNOutput",
    "SNNTrace",
    "SpikingNeuralNetwork",
    "Surrogate",
    "SurrogateGradient",
    "spike",
]
