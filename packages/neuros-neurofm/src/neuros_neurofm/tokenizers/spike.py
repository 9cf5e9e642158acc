"""Spike counts of a population into tokens."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_neurofm.tokenizers._channel_set import ChannelSetTokenizer, Standardised
from neuros_neurofm.tokenizers._patches import patch_size
from neuros_neurofm.tokenizers._tokenizer import Tokenizer

__all__ = ["SpikeTokenizer"]

_WIDTH = 64


class _SpikeFrontEnd(nn.Module):
    """Variance-stabilised counts per bin and per patch, and their running mean."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(size + 2, width)

    def forward(self, signal: Standardised) -> Float[Tensor, "batch patch channel width"]:
        """Features of each patch and unit."""
        valid = signal.valid.to(signal.x.dtype)
        n = valid.sum(2)
        # A patch that is partly masked is read as the count of a full patch.
        count = signal.x.sum(2) * (signal.x.shape[2] / n.clamp_min(1.0))
        stable = _anscombe(count) * (n > 0)
        running = stable.cumsum(1) / (n > 0).to(stable.dtype).cumsum(1).clamp_min(1.0)
        bins = _anscombe(signal.x).transpose(2, 3)
        features: Tensor = self.mix(torch.cat([bins, torch.stack([stable, running], -1)], -1))
        return features


def _anscombe(count: Tensor) -> Tensor:
    # Anscombe (1948): 2 sqrt(c + 3/8) has unit variance for Poisson c; shifted so that 0 stays 0.
    stable: Tensor = 2.0 * ((count + 0.375).sqrt() - 0.375**0.5)
    return stable


class SpikeTokenizer(Tokenizer):
    r"""Tokens from spike counts in equal bins.

    Counts are variance-stabilised by $2\sqrt{c + 3/8}$ (Anscombe 1948) per bin and per patch.
    Patches that are partly masked are read at the rate of their valid bins.

    Args:
        d_model: Width of the tokens.
        sampling_rate: Bins per second.
        patch: Duration of a token in seconds, in samples without `sampling_rate`;
            default 0.02 s, or 1 bin without `sampling_rate`.
        dropout: Dropout on the tokens.
        unit_dim: Width of the unit vectors.

    Raises:
        ValueError: `sampling_rate` or `patch` is not > 0, or `patch` is no whole number of samples
            where no rate is given.

    Examples:
        >>> import torch
        >>> tokenizer = SpikeTokenizer(32, sampling_rate=100.0)
        >>> tokens = tokenizer(torch.ones(1, 6, 5))
        >>> tokens.values.shape, tokens.times[0].tolist()
        (torch.Size([1, 3, 32]), [0.02, 0.04, 0.06])

    References:
        Anscombe (1948), The transformation of Poisson, binomial and negative-binomial data,
        Biometrika 35, doi:10.1093/biomet/35.3-4.246.
    """

    modality = "spike"

    def __init__(
        self,
        d_model: int,
        *,
        sampling_rate: float | None = None,
        patch: float | None = None,
        dropout: float = 0.0,
        unit_dim: int = 64,
    ) -> None:
        size = patch_size(self.modality, sampling_rate, patch, 0.02)
        core = ChannelSetTokenizer(
            self.modality,
            _SpikeFrontEnd(size, _WIDTH),
            d_model=d_model,
            width=_WIDTH,
            unit_dim=unit_dim,
            size=size,
            sampling_rate=sampling_rate,
            dropout=dropout,
            counts=True,
        )
        super().__init__(core)
