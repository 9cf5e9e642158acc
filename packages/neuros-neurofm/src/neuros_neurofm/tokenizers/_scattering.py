"""The tree of the scattering transform: wavelet, modulus, wavelet, modulus, low-pass."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional

from neuros_neurofm.tokenizers._scattering_plan import Band, Level, Plan, average

__all__ = ["scatter"]

# Complex values per step: larger intermediates leave the cache. Measured from 2^17 to 2^22.
_CHUNK = 2**19


def scatter(x: Float[Tensor, "row time"], plan: Plan) -> Float[Tensor, "coeff row output"]:
    """Coefficients of order 0, 1 and 2, each in the order of the filters."""
    pad = plan.padding
    # Reflection needs a channel axis.
    u = functional.pad(x[:, None], (pad.left, pad.right), mode="reflect")[:, 0]
    spectrum = torch.fft.fft(u)
    first = [average(u, plan.averages[0], pad.n_outputs)[None]]
    second = []
    for level in plan.levels:
        n = max(1, _CHUNK // (x.shape[0] * (pad.length >> level.k)))
        for start in range(0, len(level.bands), n):
            u1 = _modulus(_filtered(spectrum, level.bands[start : start + n]))
            first.append(average(u1, plan.averages[level.k], pad.n_outputs))
            if level.inner:
                second.append(_second_order(u1, level, plan))
    return torch.cat(first + second)


def _second_order(
    u1: Float[Tensor, "filter row sample"], level: Level, plan: Plan
) -> Float[Tensor, "path row output"]:
    spectrum = torch.fft.fft(u1)
    averages = [
        average(_modulus(_filtered(spectrum, (band,))[0]), plan.averages[k], plan.padding.n_outputs)
        for k, band in level.inner
    ]
    # All second wavelets of one first wavelet stand together.
    return torch.stack(averages, dim=1).flatten(0, 1)


def _filtered(
    spectrum: Complex[Tensor, "*rows bin"], bands: tuple[Band, ...]
) -> Complex[Tensor, "filter *rows band"]:
    """The spectrum in the window of each filter, times the filter."""
    return torch.stack([_window(spectrum, band) * band.response for band in bands])


def _window(spectrum: Complex[Tensor, "*rows bin"], band: Band) -> Complex[Tensor, "*rows band"]:
    end = band.start + band.response.shape[0]
    if band.start >= 0:
        return spectrum[..., band.start : end]
    negative = spectrum[..., band.start : min(end, 0) or None]
    return negative if end <= 0 else torch.cat([negative, spectrum[..., :end]], dim=-1)


def _modulus(spectrum: Complex[Tensor, "*rows band"]) -> Float[Tensor, "*rows sample"]:
    z = torch.fft.ifft(spectrum)
    re, im = z.real, z.imag
    # The smallest square keeps the gradient finite at 0; `z.abs()` takes twice as long.
    tiny = re.new_tensor(1e-37)
    return torch.addcmul(tiny, re, re).addcmul_(im, im).sqrt_()
