"""Similarity of representations up to rotation: centred kernel alignment and Procrustes."""

from neuros_mechint.alignment._cka import CKA
from neuros_mechint.alignment._procrustes import Procrustes, ProcrustesResult

__all__ = ["CKA", "Procrustes", "ProcrustesResult"]
