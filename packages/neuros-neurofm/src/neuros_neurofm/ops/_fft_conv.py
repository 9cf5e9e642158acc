"""Causal linear convolution with a long kernel by fast Fourier transforms."""

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_neurofm.ops._validation import check_tensor, compute_dtype

__all__ = ["causal_fft_conv"]


def _fft_length(needed: int) -> int:
    """The shortest of the lengths 2^a, 3 * 2^a, 5 * 2^a that holds `needed` samples."""
    doublings = ((odd, max(0, (-(-needed // odd) - 1).bit_length())) for odd in (1, 3, 5))
    return min(odd << power for odd, power in doublings)


def _convolve(x: Float[Tensor, "..."], k: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """First `x.shape[dim]` samples of the linear convolution; `k` is no longer than `x`."""
    length = x.shape[dim]
    # A shorter transform would wrap the last samples around onto the first.
    n = _fft_length(length + k.shape[dim] - 1)
    spectrum = torch.fft.rfft(x, n, dim) * torch.fft.rfft(k, n, dim)
    y: Tensor = torch.fft.irfft(spectrum, n, dim)
    return y.narrow(dim, 0, length)


def _aligned_kernel(x: Tensor, k: Tensor, dim: int) -> Tensor:
    """`k` with as many axes as `x`, or the reason why it does not fit."""
    ndim = x.ndim if getattr(k, "ndim", 1) > 1 else 1
    check_tensor("k", k, ndim, "(lag,) or those of x")
    if k.ndim == 1:
        k = k.reshape([-1 if axis == dim else 1 for axis in range(x.ndim)])
    fits = all(
        axis == dim or given in {1, wanted}
        for axis, (given, wanted) in enumerate(zip(k.shape, x.shape, strict=True))
    )
    if not fits or not k.shape[dim]:
        raise ValueError(
            f"k needs at least one lag along dim {dim} and 1 or the size of x = {tuple(x.shape)} "
            f"along every other axis, got {tuple(k.shape)}"
        )
    return k


def causal_fft_conv(x: Tensor, k: Tensor, dim: int = 1) -> Tensor:
    r"""Causal linear convolution, $y_t = \sum_{j=0}^{t} k_j x_{t-j}$, in $O(L \log L)$.

    The transforms are padded to hold all of the linear convolution, so that nothing wraps around:
    the first output depends on the first input alone. The rounding error of an output scales with
    the largest sample of its series, as in every convolution by Fourier transforms. Half-precision
    inputs are transformed in float32.

    Args:
        x: input of any shape, time along `dim`.
        k: kernel (lag,) for all series alike; or with as many axes as `x`, lags along `dim` and
            along every other axis 1 or the size of `x`. Lags beyond the length of `x` meet no
            sample.
        dim: the axis of time.

    Returns:
        The output, in the shape and dtype of `x`.

    Raises:
        ValueError: If `dim` is not an axis of `x`, or the shape of `k` does not fit.
        TypeError: If an input is not a floating-point tensor.

    Examples:
        A kernel of ones sums what came so far.

        >>> import torch
        >>> x = torch.tensor([[1.0, 2.0, 3.0]])
        >>> causal_fft_conv(x, torch.ones(3)).round(decimals=4).tolist()
        [[1.0, 3.0, 6.0]]
    """
    check_tensor("x", x, getattr(x, "ndim", 1), "with time along dim")
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dim needs to be an axis of x, which has {x.ndim}, got {dim}")
    dim = dim % x.ndim
    k = _aligned_kernel(x, k, dim)
    if not x.numel():
        return x.clone()
    dtype = compute_dtype(x, k)
    k = k.narrow(dim, 0, min(k.shape[dim], x.shape[dim]))
    with torch.autocast(x.device.type, enabled=False):
        return _convolve(x.to(dtype), k.to(dtype), dim).to(x.dtype)
