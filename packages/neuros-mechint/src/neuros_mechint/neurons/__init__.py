"""Neurons: what single units and populations of them respond to."""

from neuros_mechint.neurons.analyzer import (
    BehaviorInformation,
    MonosemanticNeuron,
    NeuronActivationAnalyzer,
    PopulationGeometry,
    PredictiveNeurons,
    Selectivity,
)

__all__ = [
    "BehaviorInformation",
    "MonosemanticNeuron",
    "NeuronActivationAnalyzer",
    "PopulationGeometry",
    "PredictiveNeurons",
    "Selectivity",
]
