from ._version import __version__
from .estimator import NeuroFMEstimator
from .models.multimodal_neurofmx import MultiModalNeuroFMX, NeuroFMXOutput
from .models.neurofmx import NeuroFMX

__all__ = [
    "MultiModalNeuroFMX",
    "NeuroFMEstimator",
    "NeuroFMX",
    "NeuroFMXOutput",
    "__version__",
]
