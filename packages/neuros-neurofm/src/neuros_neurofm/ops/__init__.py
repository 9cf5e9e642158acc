"""State-space operations in pure PyTorch, each with a state that can be carried on."""

from neuros_neurofm.ops._causal_conv import causal_conv1d
from neuros_neurofm.ops._fft_conv import causal_fft_conv
from neuros_neurofm.ops._fractional import fractional_kernel, power_law_modes
from neuros_neurofm.ops._selective_scan import selective_scan
from neuros_neurofm.ops._ssd import ssd

__all__ = [
    "causal_conv1d",
    "causal_fft_conv",
    "fractional_kernel",
    "power_law_modes",
    "selective_scan",
    "ssd",
]
