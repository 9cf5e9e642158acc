from .heads import ContrastiveHead, DecoderHead, EncoderHead, ForecastHead
from .mamba import MambaBackbone, MambaBlock, MambaState
from .mamba_fractional import FractionalMambaBlock
from .multimodal_neurofmx import MultiModalNeuroFMX, NeuroFMXOutput
from .neurofmx import NeuroFMX
from .perceiver import PerceiverIO
from .popt import PopT

__all__ = [
    "ContrastiveHead",
    "DecoderHead",
    "EncoderHead",
    "ForecastHead",
    "FractionalMambaBlock",
    "MambaBackbone",
    "MambaBlock",
    "MambaState",
    "MultiModalNeuroFMX",
    "NeuroFMX",
    "NeuroFMXOutput",
    "PerceiverIO",
    "PopT",
]
