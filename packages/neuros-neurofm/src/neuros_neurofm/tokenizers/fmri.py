"""Regional BOLD series into tokens."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_neurofm.tokenizers._channel_set import Standardised
from neuros_neurofm.tokenizers._signal import SignalTokenizer

__all__ = ["fMRITokenizer"]

_DILATIONS = (1, 2, 4, 8)


class _DilatedFrontEnd(nn.Module):
    """Residual causal convolutions of dilation 1, 2, 4 and 8 along each region's series."""

    def __init__(self, size: int, width: int, *, hidden: int = 16) -> None:
        super().__init__()
        self.lift = nn.Linear(1, hidden, bias=False)
        self.layers = nn.ModuleList(nn.Conv1d(hidden, hidden, 3, dilation=d) for d in _DILATIONS)
        self.mix = nn.Sequential(
            nn.Linear(size * hidden + 3, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, signal: Standardised) -> Float[Tensor, "batch patch channel width"]:
        """Features of each patch and region."""
        batch, patches, size, channels = signal.x.shape
        valid = signal.valid.flatten(1, 2).transpose(1, 2).flatten(0, 1).unsqueeze(1)
        series = signal.x.flatten(1, 2).transpose(1, 2).flatten(0, 1).unsqueeze(-1)
        hidden = self.lift(series).transpose(1, 2)
        for dilation, layer in zip(_DILATIONS, self.layers, strict=True):
            # Re-masked in every layer: a bias at a masked sample would reach the later ones.
            past = signal.memory.extend(f"dilation{dilation}", hidden, 2 * dilation, dim=-1)
            response = nn.functional.gelu(layer(past))
            hidden = hidden + response * valid
        wave = hidden.view(batch, channels, -1, patches, size).permute(0, 3, 1, 2, 4).flatten(3)
        fraction = signal.valid.to(wave.dtype).mean(2).unsqueeze(-1)
        features: Tensor = self.mix(torch.cat([wave, signal.level, fraction], dim=-1))
        return features


class fMRITokenizer(SignalTokenizer):  # noqa: N801 - the spelling of the field
    """Tokens from the BOLD series of regions.

    Each region is standardised by its running mean and deviation (no look-ahead), or by those
    that `calibrate` has fixed. Features: a stack of causal convolutions with dilations 1, 2, 4
    and 8 (a memory of 31 volumes), and the amplitude and level that standardisation removed.

    Args:
        d_model: Width of the tokens.
        sampling_rate: Volumes per second, 1 / TR.
        patch: Duration of a token in seconds, in samples without `sampling_rate`;
            default 1 volume.
        dropout: Dropout on the tokens.
        unit_dim: Width of the unit vectors.

    Raises:
        ValueError: `sampling_rate` or `patch` is not > 0, or `patch` is no whole number of samples
            where no rate is given.

    Examples:
        >>> import torch
        >>> tokenizer = fMRITokenizer(32, sampling_rate=0.5)
        >>> tokens = tokenizer(torch.randn(1, 3, 28))
        >>> tokens.values.shape, tokens.times[0].tolist()
        (torch.Size([1, 3, 32]), [2.0, 4.0, 6.0])

    References:
        van den Oord et al. (2016), WaveNet: a generative model for raw audio, arXiv:1609.03499.
    """

    modality = "fmri"
    front_end = _DilatedFrontEnd
