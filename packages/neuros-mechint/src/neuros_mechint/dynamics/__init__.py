"""Dynamics: how states evolve, and what they say about one another."""

from neuros_mechint.dynamics._limit_cycles import LimitCycles
from neuros_mechint.dynamics.avalanches import AvalancheCriticality, AvalancheResult
from neuros_mechint.dynamics.change_points import PhaseTransitionDetector, PhaseTransitions
from neuros_mechint.dynamics.drift import DriftResult, RepresentationDrift
from neuros_mechint.dynamics.energy import DensityLandscape, EnergyLandscape, IsingLandscape
from neuros_mechint.dynamics.entropy import EntropyRate, GaussianEntropy, KLEntropy
from neuros_mechint.dynamics.fixed_points import FixedPointFinder, FixedPoints
from neuros_mechint.dynamics.information import InformationSignificance, MutualInformation
from neuros_mechint.dynamics.information_plane import InformationPlane, InformationPlaneResult
from neuros_mechint.dynamics.koopman import KoopmanAnalyzer, KoopmanResult
from neuros_mechint.dynamics.landscape import HessianSpectrum, LossLandscape, LossPath, LossPlane
from neuros_mechint.dynamics.lyapunov import LyapunovResult, LyapunovSpectrum, SeriesLyapunov
from neuros_mechint.dynamics.network import (
    Controllability,
    ControllabilityResult,
    NetworkDynamics,
    NetworkDynamicsResult,
)
from neuros_mechint.dynamics.synchrony import KuramotoOrder, KuramotoResult
from neuros_mechint.dynamics.trajectories import TrainingTrajectories, TrajectoryRecorder
from neuros_mechint.dynamics.transfer_entropy import TransferEntropy

__all__ = [
    "AvalancheCriticality",
    "AvalancheResult",
    "Controllability",
    "ControllabilityResult",
    "DensityLandscape",
    "DriftResult",
    "EnergyLandscape",
    "EntropyRate",
    "FixedPointFinder",
    "FixedPoints",
    "GaussianEntropy",
    "HessianSpectrum",
    "InformationPlane",
    "InformationPlaneResult",
    "InformationSignificance",
    "IsingLandscape",
    "KLEntropy",
    "KoopmanAnalyzer",
    "KoopmanResult",
    "KuramotoOrder",
    "KuramotoResult",
    "LimitCycles",
    "LossLandscape",
    "LossPath",
    "LossPlane",
    "LyapunovResult",
    "LyapunovSpectrum",
    "MutualInformation",
    "NetworkDynamics",
    "NetworkDynamicsResult",
    "PhaseTransitionDetector",
    "PhaseTransitions",
    "RepresentationDrift",
    "SeriesLyapunov",
    "TrainingTrajectories",
    "TrajectoryRecorder",
    "TransferEntropy",
]
