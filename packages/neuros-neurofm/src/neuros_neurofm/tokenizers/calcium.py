"""Calcium fluorescence into tokens."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_neurofm.tokenizers._channel_set import (
    Standardised,
    frames,
)
from neuros_neurofm.tokenizers._signal import SignalTokenizer

__all__ = ["CalciumTokenizer"]


class _StridedFrontEnd(nn.Module):
    """A causal convolution that moves by one patch, amplitude and level."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        # A transient lasts several frames: the kernel spans four patches, at least eight frames.
        self.length = max(4 * size, 8)
        self.mix = nn.Sequential(
            nn.Linear(self.length + 3, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, signal: Standardised) -> Float[Tensor, "batch patch channel width"]:
        """Features of each patch and cell."""
        wave = frames(signal.x, self.length, signal.memory)
        fraction = signal.valid.to(wave.dtype).mean(2).unsqueeze(-1)
        features: Tensor = self.mix(torch.cat([wave, signal.level, fraction], dim=-1))
        return features


class CalciumTokenizer(SignalTokenizer):
    """Tokens from the fluorescence of cells.

    Each cell is standardised by its running mean and deviation (no look-ahead), or by those
    that `calibrate` has fixed. Features: a causal convolution with the stride of a patch over
    the last four patches (at least eight frames), and the amplitude and level that
    standardisation removed.

    Args:
        d_model: Width of the tokens.
        sampling_rate: Frames per second.
        patch: Duration of a token in seconds, in samples without `sampling_rate`;
            default 1 frame.
        dropout: Dropout on the tokens.
        unit_dim: Width of the unit vectors.

    Raises:
        ValueError: `sampling_rate` or `patch` is not > 0, or `patch` is no whole number of samples
            where no rate is given.

    Examples:
        >>> import torch
        >>> tokenizer = CalciumTokenizer(32, sampling_rate=30.0)
        >>> tokens = tokenizer(torch.randn(1, 3, 20))
        >>> tokens.values.shape, tokens.times[0].tolist()
        (torch.Size([1, 3, 32]), [0.03333333333333333, 0.06666666666666667, 0.1])

    References:
        Vogelstein et al. (2010), Fast nonnegative deconvolution for spike train inference from
        population calcium imaging, J. Neurophysiol. 104, doi:10.1152/jn.01073.2009.
    """

    modality = "calcium"
    front_end = _StridedFrontEnd
