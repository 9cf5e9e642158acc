"""Interventions: putting one run's activations into another, and measuring what that changes."""

from neuros_mechint.interventions.ablation import (
    AblationResult,
    AblationStudy,
    AblationTable,
    ComponentAblation,
    LayerAblation,
    NeuronAblation,
)
from neuros_mechint.interventions.attribution_patching import attribution_patching
from neuros_mechint.interventions.causal_graph import CausalGraph, build_causal_graph
from neuros_mechint.interventions.counterfactuals import Counterfactual, CounterfactualSearch
from neuros_mechint.interventions.information_flow import InformationFlow
from neuros_mechint.interventions.mediation import CausalMediation, Effects
from neuros_mechint.interventions.metrics import (
    Metric,
    cross_entropy,
    kl_divergence,
    logit_difference,
)
from neuros_mechint.interventions.patching import ActivationPatcher, PatchResult, recovery
from neuros_mechint.interventions.paths import PathAnalyzer
from neuros_mechint.interventions.scale_ablation import ScaleAblation
from neuros_mechint.interventions.structural import StructuralCausalModel
from neuros_mechint.interventions.structured_patching import (
    AttentionPatcher,
    MLPPatcher,
    ResidualStreamPatcher,
)
from neuros_mechint.interventions.virtual_lesions import VirtualLesion

__all__ = [
    "AblationResult",
    "AblationStudy",
    "AblationTable",
    "ActivationPatcher",
    "AttentionPatcher",
    "CausalGraph",
    "CausalMediation",
    "ComponentAblation",
    "Counterfactual",
    "CounterfactualSearch",
    "Effects",
    "InformationFlow",
    "LayerAblation",
    "MLPPatcher",
    "Metric",
    "NeuronAblation",
    "PatchResult",
    "PathAnalyzer",
    "ResidualStreamPatcher",
    "ScaleAblation",
    "StructuralCausalModel",
    "VirtualLesion",
    "attribution_patching",
    "build_causal_graph",
    "cross_entropy",
    "kl_divergence",
    "logit_difference",
    "recovery",
]
