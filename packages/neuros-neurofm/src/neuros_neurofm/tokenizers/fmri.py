"""Regional BOLD series into tokens."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_neurofm.tokenizers._channel_set import ChannelSetTokenizer, Standardised, Tokenised
from neuros_neurofm.tokenizers._patches import patch_size
from neuros_neurofm.tokenizers._tokens import Tokens
from neuros_neurofm.tokenizers._units import UnitEmbedding

__all__ = ["fMRITokenizer"]

_WIDTH = 64
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
            response = nn.functional.gelu(layer(nn.functional.pad(hidden, (2 * dilation, 0))))
            hidden = hidden + response * valid
        wave = hidden.view(batch, channels, -1, patches, size).permute(0, 3, 1, 2, 4).flatten(3)
        fraction = signal.valid.to(wave.dtype).mean(2).unsqueeze(-1)
        features: Tensor = self.mix(torch.cat([wave, signal.level, fraction], dim=-1))
        return features


class fMRITokenizer(nn.Module):  # noqa: N801 - the spelling of the field
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

    def __init__(
        self,
        d_model: int,
        *,
        sampling_rate: float | None = None,
        patch: float | None = None,
        dropout: float = 0.0,
        unit_dim: int = 64,
    ) -> None:
        super().__init__()
        size = patch_size(self.modality, sampling_rate, patch, None)
        self.core = ChannelSetTokenizer(
            self.modality,
            _DilatedFrontEnd(size, _WIDTH),
            d_model=d_model,
            width=_WIDTH,
            unit_dim=unit_dim,
            size=size,
            sampling_rate=sampling_rate,
            dropout=dropout,
        )

    @property
    def units(self) -> UnitEmbedding:
        """Vectors of the named channels."""
        return self.core.units

    def calibrate(self, x: Tensor, *, units: Sequence[str], mask: Tensor | None = None) -> None:
        """Fixes mean and deviation of named channels; later calls stop estimating theirs.

        Args:
            x: Training recording, (batch, time, channel).
            units: Ids of the channels.
            mask: True = valid.

        Raises:
            ValueError: a channel does not vary, or the ids do not match the channels.
        """
        self.core.calibrate(x, units, mask)

    def forward(
        self,
        x: Tensor,
        *,
        units: Sequence[str] | None = None,
        mask: Tensor | None = None,
        times: Tensor | None = None,
        coords: Tensor | None = None,
    ) -> Tokens:
        """One token per patch.

        Args:
            x: BOLD series, any unit, (batch, time, channel), any number of channels.
            units: Channel ids; unknown or absent ids get vectors inferred from the data.
            mask: True = valid; (batch, time, channel) or 3-D and broadcastable to it.
            times: Seconds of irregular samples, (batch, time) or (time,), non-decreasing.
            coords: Channel positions in metres, (channel, 3); read where the id is not known.

        Returns:
            `Tokens` of ceil(time / patch) vectors; token s rests on samples up to the end of
            patch s only.

        Raises:
            TypeError: `x` is no real tensor, or the mask is not boolean.
            ValueError: wrong shape, NaN or infinity at a valid sample, or times that decrease.
        """
        return self.tokenize(x, units=units, mask=mask, times=times, coords=coords).tokens

    def tokenize(
        self,
        x: Tensor,
        *,
        units: Sequence[str] | None = None,
        mask: Tensor | None = None,
        times: Tensor | None = None,
        coords: Tensor | None = None,
        rate: float | None = None,
    ) -> Tokenised:
        """Like `forward`, with the unit vectors and the checked input beside the tokens.

        Args:
            x: As in `forward`.
            units: As in `forward`.
            mask: As in `forward`.
            times: As in `forward`.
            coords: As in `forward`.
            rate: Samples per second where the tokenizer was built without a sampling rate.

        Returns:
            Tokens, unit vectors, clean input and full mask.
        """
        result: Tokenised = self.core(
            x, units=units, mask=mask, times=times, coords=coords, rate=rate
        )
        return result
