"""Biophysical: spiking neurons with gradients, and networks that obey Dale's law."""

from neuros_mechint.biophysical._neuron import BiophysicalNeuronBase, NeuronOutput, NeuronTrace
from neuros_mechint.biophysical._spike_times import SpikeTimes, crossing_times
from neuros_mechint.biophysical.dales_law import (
    DalesLawConstraint,
    DalesLinear,
    DalesLossRegularizer,
    DANNWeights,
    EINetworkClassifier,
    RecurrentDalesNetwork,
    RNNOutput,
)
from neuros_mechint.biophysical.hodgkin_huxley import (
    HHRates,
    HHSteadyState,
    HodgkinHuxleyNeuron,
)
from neuros_mechint.biophysical.izhikevich import (
    IZHIKEVICH_REGIMES,
    IzhikevichNeuron,
    IzhikevichRegime,
)
from neuros_mechint.biophysical.lif import LeakyIntegrateFireNeuron
from neuros_mechint.biophysical.surrogate import SURROGATES, Surrogate, SurrogateGradient, spike

__all__ = [
    "IZHIKEVICH_REGIMES",
    "SURROGATES",
    "BiophysicalNeuronBase",
    "DANNWeights",
    "DalesLawConstraint",
    "DalesLinear",
    "DalesLossRegularizer",
    "EINetworkClassifier",
    "HHRates",
    "HHSteadyState",
    "HodgkinHuxleyNeuron",
    "IzhikevichNeuron",
    "IzhikevichRegime",
    "LeakyIntegrateFireNeuron",
    "NeuronOutput",
    "NeuronTrace",
    "RNNOutput",
    "RecurrentDalesNetwork",
    "SpikeTimes",
    "Surrogate",
    "SurrogateGradient",
    "crossing_times",
    "spike",
]
