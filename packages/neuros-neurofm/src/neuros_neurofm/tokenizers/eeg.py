"""Scalp EEG into tokens."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from neuros_neurofm.tokenizers._channel_set import Standardised
from neuros_neurofm.tokenizers._signal import SignalTokenizer
from neuros_neurofm.tokenizers._spectral import CausalLogPower

__all__ = ["EEGTokenizer"]


class _EEGFrontEnd(nn.Module):
    """Causal convolutions of three lengths, log-power, amplitude and level."""

    def __init__(self, size: int, width: int, *, n_filters: int = 8) -> None:
        super().__init__()
        self.power = CausalLogPower(size)
        self.lengths = (max(size // 8, 3), max(size // 2, 5), max(2 * size, 7))
        self.filters = nn.ModuleList(nn.Conv1d(1, n_filters, k, bias=False) for k in self.lengths)
        self.mix = nn.Sequential(
            nn.Linear(3 * n_filters + self.power.n_bands + 3, width),
            nn.GELU(),
            nn.Linear(width, width),
        )

    def forward(self, signal: Standardised) -> Float[Tensor, "batch patch channel width"]:
        """Features of each patch and channel."""
        fraction = signal.valid.to(signal.x.dtype).mean(2)
        series = signal.x.flatten(1, 2).transpose(1, 2).flatten(0, 1).unsqueeze(1)
        longest = max(self.lengths)
        padded = signal.memory.extend("series", series, longest - 1, dim=-1)
        parts = [
            self._energy(padded[..., longest - k :], conv, signal, fraction)
            for k, conv in zip(self.lengths, self.filters, strict=True)
        ]
        parts += [self.power(signal.x, signal.memory), signal.level, fraction.unsqueeze(-1)]
        features: Tensor = self.mix(torch.cat(parts, dim=-1))
        return features

    def _energy(
        self,
        series: Float[Tensor, "row 1 padded"],
        conv: nn.Module,
        signal: Standardised,
        fraction: Float[Tensor, "batch patch channel"],
    ) -> Float[Tensor, "batch patch channel filter"]:
        batch, patches, size, channels = signal.x.shape
        response = functional.gelu(conv(series)).view(batch, channels, -1, patches, size)
        weight = signal.valid.permute(0, 3, 1, 2).unsqueeze(2).to(response.dtype)
        mean = (response * weight).mean(-1).permute(0, 3, 1, 2)
        # The mean over the valid samples of the patch, 0 where there is none.
        return mean / fraction.clamp_min(1.0 / size).unsqueeze(-1)


class EEGTokenizer(SignalTokenizer):
    """Tokens from scalp potentials.

    Each channel is standardised by its running mean and deviation (no look-ahead), or by those
    that `calibrate` has fixed. Features: the mean rectified response of causal filters of three
    lengths (1/8, 1/2 and 2 patches), the log-power in up to 24 logarithmic bands over the last
    four patches, and the amplitude and level that standardisation removed.

    Args:
        d_model: Width of the tokens.
        sampling_rate: Samples per second.
        patch: Duration of a token in seconds, in samples without `sampling_rate`;
            default 0.2 s, or 1 sample without `sampling_rate`.
        dropout: Dropout on the tokens.
        unit_dim: Width of the unit vectors.

    Raises:
        ValueError: `sampling_rate` or `patch` is not > 0, or `patch` is no whole number of samples
            where no rate is given.

    Examples:
        >>> import torch
        >>> tokenizer = EEGTokenizer(32, sampling_rate=160.0)
        >>> tokens = tokenizer(torch.randn(1, 96, 64))
        >>> tokens.values.shape, tokens.times[0].tolist()
        (torch.Size([1, 3, 32]), [0.2, 0.4, 0.6])

    References:
        Lawhern et al. (2018), EEGNet: a compact convolutional neural network for EEG-based
        brain-computer interfaces, J. Neural Eng. 15, doi:10.1088/1741-2552/aace8c.
    """

    modality = "eeg"
    front_end = _EEGFrontEnd
    default_patch_s = 0.2
