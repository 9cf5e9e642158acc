from .adversary import DomainDiscriminator, GradientReversal, reversal_schedule
from .diffusion import LatentDiffusion
from .heads import ContrastiveHead, DecoderHead, EncoderHead, ForecastHead
from .input_report import ChannelStatus, InputReport
from .linear_part import LinearPart
from .mamba import MambaBackbone, MambaBlock, MambaState
from .mamba_fractional import FractionalMambaBlock
from .multimodal_neurofmx import MultiModalNeuroFMX, NeuroFMXOutput
from .neurofmx import NeuroFMX
from .perceiver import PerceiverIO
from .popt import PopT
from .popt_pretext import (
    PretextHeads,
    PretextLogits,
    PretextLoss,
    PretextTask,
    draw_pretext_task,
    popt_pretext_loss,
)

__all__ = [
    "ChannelStatus",
    "ContrastiveHead",
    "DecoderHead",
    "DomainDiscriminator",
    "EncoderHead",
    "ForecastHead",
    "FractionalMambaBlock",
    "GradientReversal",
    "InputReport",
    "LatentDiffusion",
    "LinearPart",
    "MambaBackbone",
    "MambaBlock",
    "MambaState",
    "MultiModalNeuroFMX",
    "NeuroFMX",
    "NeuroFMXOutput",
    "PerceiverIO",
    "PopT",
    "PretextHeads",
    "PretextLogits",
    "PretextLoss",
    "PretextTask",
    "draw_pretext_task",
    "popt_pretext_loss",
    "reversal_schedule",
]
