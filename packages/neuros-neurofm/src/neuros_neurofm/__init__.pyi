from ._version import __version__
from .models.multimodal_neurofmx import MultiModalNeuroFMX, NeuroFMXOutput
from .models.neurofmx import NeuroFMX

__all__ = ["MultiModalNeuroFMX", "NeuroFMX", "NeuroFMXOutput", "__version__"]
