"""Biophysical: spiking neurons with gradients, and networks that obey Dale's law."""

from neuros_mechint.biophysical._neuron import BiophysicalNeuronBase, NeuronOutput, NeuronTrace
from neuros_mechint.biophysical._spike_times import SpikeTimes, crossing_times
from neuros_mechint.biophysical.adex import ADEX_REGIMES, AdExNeuron, AdExRegime
from neuros_mechint.biophysical.dales_law import (
    DalesLawConstraint,
    DalesLinear,
    DalesLossRegularizer,
    DANNWeights,
    EINetworkClassifier,
    RecurrentDalesNetwork,
    RNNOutput,
)
from neuros_mechint.biophysical.fit import FitResult, fit_neuron
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
from neuros_mechint.biophysical.plasticity import STDP
from neuros_mechint.biophysical.quadratic_if import QuadraticIFNeuron
from neuros_mechint.biophysical.spiking_network import SNNOutput, SNNTrace, SpikingNeuralNetwork
from neuros_mechint.biophysical.surrogate import SURROGATES, Surrogate, SurrogateGradient, spike
from neuros_mechint.biophysical.synaptic_models import (
    ShortTermPlasticity,
    STPOutput,
    SynapticDynamics,
)

__all__ = [
    "ADEX_REGIMES",
    "IZHIKEVICH_REGIMES",
    "STDP",
    "SURROGATES",
    "AdExNeuron",
    "AdExRegime",
    "BiophysicalNeuronBase",
    "DANNWeights",
    "DalesLawConstraint",
    "DalesLinear",
    "DalesLossRegularizer",
    "EINetworkClassifier",
    "FitResult",
    "HHRates",
    "HHSteadyState",
    "HodgkinHuxleyNeuron",
    "IzhikevichNeuron",
    "IzhikevichRegime",
    "LeakyIntegrateFireNeuron",
    "NeuronOutput",
    "NeuronTrace",
    "QuadraticIFNeuron",
    "RNNOutput",
    "RecurrentDalesNetwork",
    "SNNOutput",
    "SNNTrace",
    "STPOutput",
    "ShortTermPlasticity",
    "SpikeTimes",
    "SpikingNeuralNetwork",
    "Surrogate",
    "SurrogateGradient",
    "SynapticDynamics",
    "crossing_times",
    "fit_neuron",
    "spike",
]
