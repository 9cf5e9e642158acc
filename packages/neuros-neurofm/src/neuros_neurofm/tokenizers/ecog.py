"""Electrocorticography into tokens."""

from collections.abc import Sequence

from torch import Tensor, nn

from neuros_neurofm.tokenizers._channel_set import ChannelSetTokenizer, Tokenised
from neuros_neurofm.tokenizers._patches import patch_size
from neuros_neurofm.tokenizers._spectral import FieldPotentialFrontEnd
from neuros_neurofm.tokenizers._tokens import Tokens
from neuros_neurofm.tokenizers._units import UnitEmbedding

__all__ = ["ECoGTokenizer"]

_WIDTH = 64


class ECoGTokenizer(nn.Module):
    """Tokens from the potentials of electrodes on the cortex.

    Each channel is standardised by its running mean and deviation (no look-ahead), or by those
    that `calibrate` has fixed. Features: the waveform of the patch, the log-power in up to 24
    logarithmic bands over the last four patches, and the amplitude and level that
    standardisation removed.

    Args:
        d_model: Width of the tokens.
        sampling_rate: Samples per second.
        patch: Duration of a token in seconds, in samples without `sampling_rate`;
            default 0.05 s, or 1 sample without `sampling_rate`.
        dropout: Dropout on the tokens.
        unit_dim: Width of the unit vectors.

    Raises:
        ValueError: `sampling_rate` or `patch` is not > 0, or `patch` is no whole number of samples
            where no rate is given.

    Examples:
        >>> import torch
        >>> tokenizer = ECoGTokenizer(32, sampling_rate=1000.0)
        >>> tokens = tokenizer(torch.randn(1, 150, 3))
        >>> tokens.values.shape, tokens.times[0].tolist()
        (torch.Size([1, 3, 32]), [0.05, 0.1, 0.15])

    References:
        Miller et al. (2007), Spectral changes in cortical surface potentials during motor
        movement, J. Neurosci. 27, doi:10.1523/JNEUROSCI.3886-06.2007.
    """

    modality = "ecog"

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
        size = patch_size(self.modality, sampling_rate, patch, 0.05)
        self.core = ChannelSetTokenizer(
            self.modality,
            FieldPotentialFrontEnd(size, _WIDTH),
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
            x: Potentials, any unit, (batch, time, channel), any number of channels.
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
