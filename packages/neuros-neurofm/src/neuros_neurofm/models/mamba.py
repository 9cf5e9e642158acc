"""Mamba blocks with carried state, masks and packed sequences, trainable on any device."""

from neuros_neurofm.models._mamba_backbone import MambaBackbone
from neuros_neurofm.models._mamba_block import MambaBlock
from neuros_neurofm.models._mamba_packing import MambaState

__all__ = ["MambaBackbone", "MambaBlock", "MambaState"]
