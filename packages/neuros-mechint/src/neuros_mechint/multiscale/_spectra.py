"""Windowed spectra of epochs or Welch segments, and what of them is rounding."""

import math
import warnings

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from neuros_mechint._arrays import Array, as_real

__all__ = ["checked", "constant_channels", "freqs_of", "rounding", "segmented", "spectra"]


def checked(x: Array, *, epochs: bool, segment: int) -> Tensor:
    """Signals (..., channels, time), or with epochs (..., epochs, channels, time).

    Raises:
        TypeError: When x is not a real tensor or array.
        ValueError: When there are fewer than two segments.
    """
    if epochs:
        return as_real("x", x, axes=("epochs", "channels", "time"), at_least=(2, 1, 2))
    data = as_real("x", x, axes=("channels", "time"), at_least=(1, 2))
    shortest = segment + segment // 2
    if data.shape[-1] < shortest:
        raise ValueError(
            f"x needs at least two half-overlapping segments = {shortest} samples along its "
            f"last axis, got {data.shape[-1]}; lower segment or pass a longer signal"
        )
    return data


def segmented(x: Tensor, *, epochs: bool, segment: int) -> Tensor:
    """Checked signals in segments, (..., epochs, channels, time)."""
    return x if epochs else x.unfold(-1, segment, segment // 2).movedim(-2, -3)


def spectra(
    x: Float[Tensor, "*batch epoch channel time"],
) -> Complex[Tensor, "*batch epoch channel freq"]:
    """Fourier transforms of demeaned segments under a symmetric Hann window."""
    window = torch.hann_window(x.shape[-1], periodic=False, dtype=x.dtype, device=x.device)
    transform: Tensor = torch.fft.rfft((x - x.mean(-1, keepdim=True)).mul_(window))
    return transform


def rounding(
    x: Float[Tensor, "*batch epoch channel time"],
) -> Float[Tensor, "*batch epoch channel one"]:
    """Error that rounding of the samples and of the transform leaves in each value of `spectra`.

    A transform passes an error of the samples on to all frequencies alike, so its size goes with
    the largest sample and not with the power at the frequency.
    """
    n = x.shape[-1]
    window = torch.hann_window(n, periodic=False, dtype=x.dtype, device=x.device)
    size: Tensor = x.abs().amax(-1, keepdim=True)
    return size * float(window.norm()) * math.log2(n) * torch.finfo(x.dtype).eps


def freqs_of(x: Tensor, sampling_rate: float) -> Tensor:
    """Frequencies of `spectra` in Hz, (F,)."""
    freqs: Tensor = torch.fft.rfftfreq(
        x.shape[-1], 1 / sampling_rate, dtype=x.dtype, device=x.device
    )
    return freqs


def constant_channels(
    x: Float[Tensor, "*batch epoch channel time"], *, stacklevel: int
) -> Bool[Tensor, "*batch channel"]:
    """Which channels vary in no segment; warns when there are any."""
    flat = (x[..., 1] == x[..., 0]).all(-2)
    if not bool(flat.any()):
        return flat
    flat = (x == x[..., :1]).all(-1).all(-2)
    if bool(flat.any()):
        warnings.warn(
            f"{int(flat.sum())} channel(s) are constant; their coupling is reported as 0",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
    return flat
