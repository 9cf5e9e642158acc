"""From the samples of any set of channels to tokens with times, one class per kind of recording."""

from neuros_neurofm.tokenizers._events import SpikeEvents
from neuros_neurofm.tokenizers._samples import TokenizerState
from neuros_neurofm.tokenizers._tokens import Tokens
from neuros_neurofm.tokenizers._units import UnitEmbedding
from neuros_neurofm.tokenizers.calcium import CalciumTokenizer
from neuros_neurofm.tokenizers.ecog import ECoGTokenizer
from neuros_neurofm.tokenizers.eeg import EEGTokenizer
from neuros_neurofm.tokenizers.emg import EMGTokenizer
from neuros_neurofm.tokenizers.fmri import fMRITokenizer
from neuros_neurofm.tokenizers.lfp import LFPTokenizer
from neuros_neurofm.tokenizers.spike import SpikeTokenizer

__all__ = [
    "CalciumTokenizer",
    "ECoGTokenizer",
    "EEGTokenizer",
    "EMGTokenizer",
    "LFPTokenizer",
    "SpikeEvents",
    "SpikeTokenizer",
    "TokenizerState",
    "Tokens",
    "UnitEmbedding",
    "fMRITokenizer",
]
