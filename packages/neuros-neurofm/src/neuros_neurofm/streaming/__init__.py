"""The model on a recording that is still running, and as exported programs."""

from neuros_neurofm.streaming.export import EncodeProgram, StepProgram
from neuros_neurofm.streaming.session import StepOutput, StreamingSession

__all__ = ["EncodeProgram", "StepOutput", "StepProgram", "StreamingSession"]
