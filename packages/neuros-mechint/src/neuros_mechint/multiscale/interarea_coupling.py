"""Coupling between areas under one path: undirected, directed and across frequencies."""

from neuros_mechint.multiscale.coupling import (
    Coherence,
    Connectivity,
    PhaseLockingValue,
    WeightedPhaseLagIndex,
)
from neuros_mechint.multiscale.granger import GrangerCausality
from neuros_mechint.multiscale.phase_amplitude import PAC, CrossFrequencyCoupling
from neuros_mechint.multiscale.transfer_entropy import TransferEntropy

__all__ = [
    "PAC",
    "Coherence",
    "Connectivity",
    "CrossFrequencyCoupling",
    "GrangerCausality",
    "PhaseLockingValue",
    "TransferEntropy",
    "WeightedPhaseLagIndex",
]
