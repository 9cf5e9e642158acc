"""Circuits: graphs of a model's parts, the edges among them that matter, and how well they do."""

from neuros_mechint.circuits.circuit import Circuit, EdgeROC
from neuros_mechint.circuits.discovery import CircuitDiscovery
from neuros_mechint.circuits.evidence import CircuitEvidence, validate_circuit
from neuros_mechint.circuits.feature_viz import (
    L2,
    ActivationMaximization,
    Blur,
    Box,
    Constraint,
    FeatureVisualizer,
    Match,
    Maximize,
    Minimize,
    Naturalistic,
    NonNegative,
    NormBall,
    OptimalStimulus,
    Stimulus,
    TotalVariation,
)
from neuros_mechint.circuits.graph import (
    CircuitGraph,
    neuron_graph,
    residual_graph,
    site_graph,
)

__all__ = [
    "L2",
    "ActivationMaximization",
    "Blur",
    "Box",
    "Circuit",
    "CircuitDiscovery",
    "CircuitEvidence",
    "CircuitGraph",
    "Constraint",
    "EdgeROC",
    "FeatureVisualizer",
    "Match",
    "Maximize",
    "Minimize",
    "Naturalistic",
    "NonNegative",
    "NormBall",
    "OptimalStimulus",
    "Stimulus",
    "TotalVariation",
    "neuron_graph",
    "residual_graph",
    "site_graph",
    "validate_circuit",
]
