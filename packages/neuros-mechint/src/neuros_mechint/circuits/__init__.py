"""Circuits: graphs of a model's parts, the edges among them that matter, and how well they do."""

from neuros_mechint.circuits.causal_validation import (
    CausalValidation,
    WeightAgreement,
    validate_causal,
)
from neuros_mechint.circuits.circuit import Circuit, EdgeROC
from neuros_mechint.circuits.circuit_extraction import CircuitExtractor, ExtractedCircuit
from neuros_mechint.circuits.discovery import CircuitDiscovery
from neuros_mechint.circuits.dunl import DUNLEvents, DUNLFitResult, DUNLModel, DUNLOutput
from neuros_mechint.circuits.ei_diagram import EICircuitDiagram, EISummary
from neuros_mechint.circuits.evidence import CircuitEvidence, validate_circuit
from neuros_mechint.circuits.factors import (
    FactorComparison,
    FactorDecomposition,
    FactorRow,
    FactorTruth,
)
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
from neuros_mechint.circuits.latent_rnn import (
    CircuitFitResult,
    CircuitFitter,
    CircuitIdentifiability,
    LatentCircuitModel,
    LatentCircuitOutput,
)
from neuros_mechint.circuits.mixed_selectivity import (
    MixedSelectivityAnalyzer,
    MixedSelectivityResult,
    VarianceFraction,
)
from neuros_mechint.circuits.motifs import MotifFinder, MotifResult
from neuros_mechint.circuits.recurrent_dynamics import (
    AttractorSummary,
    Linearization,
    RecurrentDynamicsAnalyzer,
    StateDimensionality,
)

__all__ = [
    "L2",
    "ActivationMaximization",
    "AttractorSummary",
    "Blur",
    "Box",
    "CausalValidation",
    "Circuit",
    "CircuitDiscovery",
    "CircuitEvidence",
    "CircuitExtractor",
    "CircuitFitResult",
    "CircuitFitter",
    "CircuitGraph",
    "CircuitIdentifiability",
    "Constraint",
    "DUNLEvents",
    "DUNLFitResult",
    "DUNLModel",
    "DUNLOutput",
    "EICircuitDiagram",
    "EISummary",
    "EdgeROC",
    "ExtractedCircuit",
    "FactorComparison",
    "FactorDecomposition",
    "FactorRow",
    "FactorTruth",
    "FeatureVisualizer",
    "LatentCircuitModel",
    "LatentCircuitOutput",
    "Linearization",
    "Match",
    "Maximize",
    "Minimize",
    "MixedSelectivityAnalyzer",
    "MixedSelectivityResult",
    "MotifFinder",
    "MotifResult",
    "Naturalistic",
    "NonNegative",
    "NormBall",
    "OptimalStimulus",
    "RecurrentDynamicsAnalyzer",
    "StateDimensionality",
    "Stimulus",
    "TotalVariation",
    "VarianceFraction",
    "WeightAgreement",
    "neuron_graph",
    "residual_graph",
    "site_graph",
    "validate_causal",
    "validate_circuit",
]
