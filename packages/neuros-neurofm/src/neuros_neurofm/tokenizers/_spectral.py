"""Log-power in logarithmic bands of the recent past of each patch."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_neurofm.tokenizers._channel_set import Standardised, frames
from neuros_neurofm.tokenizers._memory import NOTHING, Memory

__all__ = ["CausalLogPower", "FieldPotentialFrontEnd"]


class CausalLogPower(nn.Module):
    """Short-time Fourier power over the samples that end with each patch.

    Args:
        size: Samples per patch.
        context: Window length in patches; at least 16 samples are used.
        n_bands: Largest number of bands; empty ones are left out.
    """

    window: Tensor
    bands: Tensor

    def __init__(self, size: int, *, context: int = 4, n_bands: int = 24) -> None:
        super().__init__()
        self.length = max(context * size, 16)
        n_freq = self.length // 2 + 1
        # Band edges in bins, logarithmic from the first bin above 0 to Nyquist.
        edges = torch.logspace(0, math.log10(n_freq), n_bands + 1, dtype=torch.float64)
        band = torch.bucketize(torch.arange(1, n_freq, dtype=torch.float64), edges, right=True) - 1
        matrix = torch.zeros(n_bands, n_freq)
        matrix[band.clamp_max(n_bands - 1), torch.arange(1, n_freq)] = 1.0
        matrix = matrix[matrix.sum(-1) > 0]
        self.n_bands = matrix.shape[0]
        # Non-persistent: a function of the sizes, not a parameter.
        self.register_buffer(
            "window", torch.hann_window(self.length, periodic=False), persistent=False
        )
        self.register_buffer("bands", (matrix / matrix.sum(-1, keepdim=True)).T, persistent=False)

    def forward(
        self, x: Float[Tensor, "batch patch sample channel"], memory: Memory = NOTHING
    ) -> Float[Tensor, "batch patch channel band"]:
        """Half the logarithm of the mean power per band, floored 40 dB below unit variance."""
        # The FFT has no bfloat16 kernel and float16 power overflows: float32 under autocast too.
        with torch.autocast(x.device.type, enabled=False):
            framed = frames(x, self.length, memory) * self.window
            spectrum = torch.fft.rfft(framed, norm="ortho")
            power = (spectrum.real.square() + spectrum.imag.square()) @ self.bands
            log_power: Tensor = 0.5 * (power + 1e-4).log()
            return log_power


class FieldPotentialFrontEnd(nn.Module):
    """Waveform of the patch, log-power of the recent past, amplitude and level.

    Args:
        size: Samples per patch.
        width: Number of features per channel.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.power = CausalLogPower(size)
        self.mix = nn.Sequential(
            nn.Linear(size + self.power.n_bands + 3, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, signal: Standardised) -> Float[Tensor, "batch patch channel width"]:
        """Features of each patch and channel."""
        wave = signal.x.transpose(2, 3)
        fraction = signal.valid.to(wave.dtype).mean(2).unsqueeze(-1)
        parts = [wave, self.power(signal.x, signal.memory), signal.level, fraction]
        features: Tensor = self.mix(torch.cat(parts, dim=-1))
        return features
