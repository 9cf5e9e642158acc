"""What every tokenizer answers to; the modalities differ in their front ends."""

from collections.abc import Sequence

from torch import Tensor, nn

from neuros_neurofm.tokenizers._channel_set import ChannelSetTokenizer, Tokenised
from neuros_neurofm.tokenizers._event_set import EventSetTokenizer
from neuros_neurofm.tokenizers._samples import TokenizerState
from neuros_neurofm.tokenizers._tokens import Tokens
from neuros_neurofm.tokenizers._units import UnitEmbedding

__all__ = ["Tokenizer"]


class Tokenizer(nn.Module):
    """The calls that all modalities share.

    Args:
        core: Patches, statistics, front end, unit vectors and pooling of one modality.
    """

    modality: str

    def __init__(self, core: ChannelSetTokenizer | EventSetTokenizer) -> None:
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

    def init_state(self, batch: int, channels: int) -> TokenizerState:
        """The state of a stream before its first sample.

        Args:
            batch: Number of rows.
            channels: Number of channels.

        Returns:
            A state for `step`.
        """
        return self.core.init_state(batch, channels)

    def step(
        self,
        chunk: Tensor,
        state: TokenizerState,
        *,
        units: Sequence[str] | None = None,
        mask: Tensor | None = None,
        times: Tensor | None = None,
        coords: Tensor | None = None,
    ) -> tuple[Tokens, TokenizerState]:
        """The next samples of a stream, any number of them, in constant memory.

        The tokens of all steps together are those of `forward` on the whole recording (tokens of
        single spikes apart from their padding); samples of a patch that is not complete wait in
        the state. Every step takes the same channels, ids and positions.

        Args:
            chunk: Samples, (batch, time, channel).
            state: From `init_state` or the step before.
            units: As in `forward`.
            mask: As in `forward`, for the chunk.
            times: As in `forward`, for the chunk.
            coords: As in `forward`.

        Returns:
            The tokens of the patches that are complete now, possibly none, and the state.

        Raises:
            TypeError: As in `forward`.
            ValueError: As in `forward`, or another number of rows or channels than before.

        Examples:
            >>> import torch
            >>> from neuros_neurofm.tokenizers import LFPTokenizer
            >>> tokenizer = LFPTokenizer(8, sampling_rate=100.0, patch=0.05)
            >>> state = tokenizer.init_state(1, 2)
            >>> tokens, state = tokenizer.step(torch.randn(1, 12, 2), state)
            >>> tokens.times.tolist(), state.x.shape
            ([[0.05, 0.1]], torch.Size([1, 2, 2]))
        """
        tokenised, state = self.core.advance(
            chunk, state, units=units, mask=mask, times=times, coords=coords
        )
        return tokenised.tokens, state
