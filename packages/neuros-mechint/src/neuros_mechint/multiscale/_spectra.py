"""Windowed spectra of epochs or Welch segments, and signals with the phase taken out of step."""

import warnings

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from neuros_mechint._arrays import Array, as_real

__all__ = ["constant_channels", "freqs_of", "phase_shifted", "segmented", "spectra"]


def segmented(x: Array, *, epochs: bool, segment: int) -> Tensor:
    """Signals in segments, (..., epochs, channels, time).

    Raises:
        TypeError: When x is not a real tensor or array.
        ValueError: When there are fewer than two segments.
    """
    if epochs:
        return as_real("x", x, axes=("epochs", "channels", "time"), at_least=(2, 1, 2))
    data = as_real("x", x, axes=("channels", "time"), at_least=(1, 2))
    hop = segment // 2
    if data.shape[-1] < segment + hop:
        raise ValueError(
            f"x needs at least two half-overlapping segments = {segment + hop} samples along its "
            f"last axis, got {data.shape[-1]}; lower segment or pass a longer signal"
        )
    return data.unfold(-1, segment, hop).movedim(-2, -3)


def spectra(
    x: Float[Tensor, "*batch epoch channel time"],
) -> Complex[Tensor, "*batch epoch channel freq"]:
    """Fourier transforms of demeaned segments under a symmetric Hann window."""
    window = torch.hann_window(x.shape[-1], periodic=False, dtype=x.dtype, device=x.device)
    transform: Tensor = torch.fft.rfft((x - x.mean(-1, keepdim=True)) * window)
    return transform


def freqs_of(x: Tensor, sampling_rate: float) -> Tensor:
    """Frequencies of `spectra` in Hz, (F,)."""
    freqs: Tensor = torch.fft.rfftfreq(
        x.shape[-1], 1 / sampling_rate, dtype=x.dtype, device=x.device
    )
    return freqs


def constant_channels(
    x: Float[Tensor, "*batch epoch channel time"],
) -> Bool[Tensor, "*batch channel"]:
    """Which channels vary in no segment; warns when there are any."""
    flat = (x == x[..., :1]).all(-1).all(-2)
    if bool(flat.any()):
        warnings.warn(
            f"{int(flat.sum())} channel(s) are constant; their coupling is reported as 0",
            UserWarning,
            stacklevel=4,
        )
    return flat


def phase_shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Signals of the same power spectra, every phase drawn anew along the last axis."""
    transform = torch.fft.rfft(x)
    angle = torch.rand(
        transform.shape, generator=generator, device=generator.device, dtype=x.dtype
    ).to(x.device)
    # The mean and, for an even length, the Nyquist bin have no phase.
    angle[..., 0] = 0
    if x.shape[-1] % 2 == 0:
        angle[..., -1] = 0
    turned = transform * torch.polar(torch.ones_like(angle), 2 * torch.pi * angle)
    shifted: Tensor = torch.fft.irfft(turned, n=x.shape[-1])
    return shifted
