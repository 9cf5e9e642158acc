"""Alignment: how alike two representations of the same samples are."""

from neuros_mechint.alignment.cca import CCA
from neuros_mechint.alignment.metrics import CKA, Procrustes, ProcrustesResult
from neuros_mechint.alignment.noise_ceiling import NoiseCeiling, NoiseCeilingResult
from neuros_mechint.alignment.pls import PLS
from neuros_mechint.alignment.ridge import EncodingResult, RidgeAlignment
from neuros_mechint.alignment.rsa import RSA, noise_covariance
from neuros_mechint.alignment.validate import (
    AlignmentBootstrapResult,
    AlignmentComparison,
    AlignmentCVResult,
    AlignmentValidator,
    PermutationResult,
)

__all__ = [
    "CCA",
    "CKA",
    "PLS",
    "RSA",
    "AlignmentBootstrapResult",
    "AlignmentCVResult",
    "AlignmentComparison",
    "AlignmentValidator",
    "EncodingResult",
    "NoiseCeiling",
    "NoiseCeilingResult",
    "PermutationResult",
    "Procrustes",
    "ProcrustesResult",
    "RidgeAlignment",
    "noise_covariance",
]
