"""Alignment: how alike two representations of the same samples are."""

from neuros_mechint.alignment.cca import CCA
from neuros_mechint.alignment.metrics import CKA, Procrustes, ProcrustesResult

__all__ = ["CCA", "CKA", "Procrustes", "ProcrustesResult"]
