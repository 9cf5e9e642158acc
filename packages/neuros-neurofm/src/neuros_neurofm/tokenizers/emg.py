"""Electromyography into tokens."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_neurofm.tokenizers._channel_set import ChannelSetTokenizer, Standardised, Tokenised
from neuros_neurofm.tokenizers._patches import patch_size
from neuros_neurofm.tokenizers._tokens import Tokens
from neuros_neurofm.tokenizers._units import UnitEmbedding

__all__ = ["EMGTokenizer"]

_WIDTH = 64


class _EMGFrontEnd(nn.Module):
    """Waveform, rectified envelope, power, path length and zero crossings of each patch."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(size + 7, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, signal: Standardised) -> Float[Tensor, "batch patch channel width"]:
        """Features of each patch and muscle."""
        valid = signal.valid.to(signal.x.dtype)
        n = valid.sum(2).clamp_min(1.0)
        envelope = signal.x.abs().sum(2) / n
        power = 0.5 * (signal.x.square().sum(2) / n + 1e-4).log()
        step, crossing = _changes(signal.x, valid)
        measures = [envelope, power, step.sum(2) / n, crossing.sum(2) / n, valid.mean(2)]
        wave = signal.x.transpose(2, 3)
        parts = [wave, torch.stack(measures, dim=-1), signal.level]
        features: Tensor = self.mix(torch.cat(parts, dim=-1))
        return features


def _changes(
    x: Float[Tensor, "batch patch sample channel"],
    valid: Float[Tensor, "batch patch sample channel"],
) -> tuple[Float[Tensor, "batch patch step channel"], Float[Tensor, "batch patch step channel"]]:
    # Steps and sign changes inside a patch, between neighbours that are both valid.
    both = valid[:, :, 1:] * valid[:, :, :-1]
    step = (x[:, :, 1:] - x[:, :, :-1]).abs() * both
    crossing = (x[:, :, 1:] * x[:, :, :-1] < 0).to(x.dtype) * both
    return step, crossing


class EMGTokenizer(nn.Module):
    """Tokens from the potentials of muscles.

    Each channel is standardised by its running mean and deviation (no look-ahead), or by those
    that `calibrate` has fixed. Features per patch: the waveform, the rectified envelope, log-
    power, path length, rate of zero crossings, and the amplitude and level that standardisation
    removed.

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
        >>> tokenizer = EMGTokenizer(32, sampling_rate=1000.0)
        >>> tokens = tokenizer(torch.randn(1, 150, 3))
        >>> tokens.values.shape, tokens.times[0].tolist()
        (torch.Size([1, 3, 32]), [0.05, 0.1, 0.15])

    References:
        Hudgins et al. (1993), A new strategy for multifunction myoelectric control, IEEE Trans.
        Biomed. Eng. 40, doi:10.1109/10.204774.
    """

    modality = "emg"

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
            _EMGFrontEnd(size, _WIDTH),
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
