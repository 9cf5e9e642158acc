"""Sparse coders: dictionaries of directions that a model's activations are sums of."""

from neuros_mechint.sae.analysis import Coactivation, FeatureAnalyzer
from neuros_mechint.sae.coders import HierarchicalSAE, SAEOutput, SparseAutoencoder
from neuros_mechint.sae.concepts import ConceptAlignment, ConceptSAE
from neuros_mechint.sae.interpretation import (
    FeatureReport,
    interpret_feature,
    interpret_features,
)
from neuros_mechint.sae.metrics import SAEMetrics, evaluate_sae, hungarian_mcs, mmcs
from neuros_mechint.sae.training import MultiLayerSAETrainer, TrainLog
from neuros_mechint.sae.transcoders import Crosscoder, CrosscoderOutput, Transcoder
from neuros_mechint.sae.visualization import SAEVisualizer

__all__ = [
    "Coactivation",
    "ConceptAlignment",
    "ConceptSAE",
    "Crosscoder",
    "CrosscoderOutput",
    "FeatureAnalyzer",
    "FeatureReport",
    "HierarchicalSAE",
    "MultiLayerSAETrainer",
    "SAEMetrics",
    "SAEOutput",
    "SAEVisualizer",
    "SparseAutoencoder",
    "TrainLog",
    "Transcoder",
    "evaluate_sae",
    "hungarian_mcs",
    "interpret_feature",
    "interpret_features",
    "mmcs",
]
