"""The constructor that all tokenizers of sampled signals share."""

from typing import ClassVar

from torch import nn

from neuros_neurofm.tokenizers._channel_set import ChannelSetTokenizer
from neuros_neurofm.tokenizers._patches import patch_size
from neuros_neurofm.tokenizers._tokenizer import Tokenizer

__all__ = ["SignalTokenizer"]

_WIDTH = 64


class SignalTokenizer(Tokenizer):
    """A tokenizer that is told by its front end and the usual duration of its tokens.

    Args:
        d_model: Width of the tokens.
        sampling_rate: Samples per second.
        patch: Duration of a token in seconds, in samples without `sampling_rate`.
        dropout: Dropout on the tokens.
        unit_dim: Width of the unit vectors.
    """

    front_end: ClassVar[type[nn.Module]]
    default_patch_s: ClassVar[float | None] = None

    def __init__(
        self,
        d_model: int,
        *,
        sampling_rate: float | None = None,
        patch: float | None = None,
        dropout: float = 0.0,
        unit_dim: int = 64,
    ) -> None:
        size = patch_size(self.modality, sampling_rate, patch, self.default_patch_s)
        super().__init__(
            ChannelSetTokenizer(
                self.modality,
                self.front_end(size, _WIDTH),
                d_model=d_model,
                width=_WIDTH,
                unit_dim=unit_dim,
                size=size,
                sampling_rate=sampling_rate,
                dropout=dropout,
            )
        )
