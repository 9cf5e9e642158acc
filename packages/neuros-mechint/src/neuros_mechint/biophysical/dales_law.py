"""Dale's law: a presynaptic unit excites all its targets or inhibits all of them."""

from neuros_mechint.biophysical._dales_constraint import DalesLawConstraint, DalesLossRegularizer
from neuros_mechint.biophysical._dales_linear import DalesLinear, DANNWeights
from neuros_mechint.biophysical._dales_networks import (
    EINetworkClassifier,
    RecurrentDalesNetwork,
    RNNOutput,
)

__all__ = [
    "DANNWeights",
    "DalesLawConstraint",
    "DalesLinear",
    "DalesLossRegularizer",
    "EINetworkClassifier",
    "RNNOutput",
    "RecurrentDalesNetwork",
]
