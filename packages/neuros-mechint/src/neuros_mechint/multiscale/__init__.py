"""From one scale of the brain to another: fields, BOLD, coupling between areas, whole brains."""

from neuros_mechint.multiscale._brain_fit import BrainFit
from neuros_mechint.multiscale._masses import NeuralMassModel
from neuros_mechint.multiscale.bold import BalloonWindkessel
from neuros_mechint.multiscale.connectome import Connectome, load_connectome
from neuros_mechint.multiscale.coupling import (
    Coherence,
    Connectivity,
    PhaseLockingValue,
    WeightedPhaseLagIndex,
)
from neuros_mechint.multiscale.csd import CurrentSourceDensity, KernelChoice
from neuros_mechint.multiscale.granger import GrangerCausality
from neuros_mechint.multiscale.leadfield import dipole_leadfield
from neuros_mechint.multiscale.lfp_generation import LFPGenerator
from neuros_mechint.multiscale.phase_amplitude import PAC, CrossFrequencyCoupling
from neuros_mechint.multiscale.scale_bridge import MultiScaleBridge
from neuros_mechint.multiscale.transfer_entropy import TransferEntropy
from neuros_mechint.multiscale.virtual_brain import VirtualBrainInterface

__all__ = [
    "PAC",
    "BalloonWindkessel",
    "BrainFit",
    "Coherence",
    "Connectivity",
    "Connectome",
    "CrossFrequencyCoupling",
    "CurrentSourceDensity",
    "GrangerCausality",
    "KernelChoice",
    "LFPGenerator",
    "MultiScaleBridge",
    "NeuralMassModel",
    "PhaseLockingValue",
    "TransferEntropy",
    "VirtualBrainInterface",
    "WeightedPhaseLagIndex",
    "dipole_leadfield",
    "load_connectome",
]
