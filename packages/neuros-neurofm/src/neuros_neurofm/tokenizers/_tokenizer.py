"""What every tokenizer answers to; the modalities differ in their front ends."""

from collections.abc import Sequence

from torch import Tensor, nn

from neuros_neurofm.tokenizers._channel_set import ChannelSetTokenizer, Tokenised
from neuros_neurofm.tokenizers._tokens import Tokens
from neuros_neurofm.tokenizers._units import UnitEmbedding

__all__ = ["Tokenizer"]


class Tokenizer(nn.Module):
    """The calls that all modalities share.

    Args:
        core: Patches, statistics, front end, unit vectors and pooling of one modality.
    """

    modality: str

    def __init__(self, core: ChannelSetTokenizer) -> None:
        super().__init__()
        self.core = core

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
            ValueError: a channel does not vary, the ids do not match the channels, or the samples
                are counts, which are not standardised.
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
            x: Samples (or counts, >= 0), (batch, time, channel), any number of channels.
            units: Channel ids; unknown or absent ids get vectors inferred from the data.
            mask: True = valid; (batch, time, channel) or 3-D and broadcastable to it.
            times: Seconds of irregular samples, (batch, time) or (time,), non-decreasing.
            coords: Channel positions in metres, (channel, 3); read where the id is not known.

        Returns:
            `Tokens` of ceil(time / patch) vectors; token s rests on samples up to the end of
            patch s only.

        Raises:
            TypeError: `x` is no real tensor, or the mask is not boolean.
            ValueError: wrong shape, NaN or infinity at a valid sample, a negative count, or times
                that decrease.
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
