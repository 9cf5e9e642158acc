"""Electromyography into tokens."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_neurofm.tokenizers._channel_set import Standardised
from neuros_neurofm.tokenizers._signal import SignalTokenizer

__all__ = ["EMGTokenizer"]


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


class EMGTokenizer(SignalTokenizer):
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
    front_end = _EMGFrontEnd
    default_patch_s = 0.05
