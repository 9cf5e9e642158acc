"""Calcium fluorescence into tokens."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_neurofm.tokenizers._channel_set import (
    ChannelSetTokenizer,
    Standardised,
    Tokenised,
    frames,
)
from neuros_neurofm.tokenizers._patches import patch_size
from neuros_neurofm.tokenizers._tokens import Tokens
from neuros_neurofm.tokenizers._units import UnitEmbedding

__all__ = ["CalciumTokenizer"]

_WIDTH = 64


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
        wave = frames(signal.x, self.length)
        fraction = signal.valid.to(wave.dtype).mean(2).unsqueeze(-1)
        features: Tensor = self.mix(torch.cat([wave, signal.level, fraction], dim=-1))
        return features


class CalciumTokenizer(nn.Module):
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
            _StridedFrontEnd(size, _WIDTH),
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
            x: dF/F, (batch, time, channel), any number of channels.
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
