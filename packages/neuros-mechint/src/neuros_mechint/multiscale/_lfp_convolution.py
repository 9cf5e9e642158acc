"""Sums over spikes of what each of them adds: causal convolutions by Fourier transforms."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["convolved", "mixed"]


def convolved(
    x: Float[Tensor, "*batch time"], kernel: Float[Tensor, "lag"]
) -> Float[Tensor, "*batch time"]:
    """Causal convolution by Fourier transforms, as long as the signal.

    Examples:
        >>> convolved(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 0.5, 0.0])).tolist()
        [1.0, 0.5, 2.0]
    """
    n = x.shape[-1]
    size = 1 << (n + kernel.shape[0] - 2).bit_length()
    product = torch.fft.rfft(x, n=size) * torch.fft.rfft(kernel, n=size)
    found: Tensor = torch.fft.irfft(product, n=size)
    return found[..., :n]


def mixed(
    x: Float[Tensor, "*batch unit time"], kernels: Float[Tensor, "channel unit lag"]
) -> Float[Tensor, "*batch channel time"]:
    """Every unit to every channel by a kernel of their own, summed over units.

    The signal goes in blocks four kernels long and their tails are added, so that the transforms
    of all kernels fit in memory whatever the length of the recording; per frequency the sum over
    units is one product of matrices.

    Examples:
        >>> mixed(torch.eye(2, 3), torch.ones(1, 2, 1)).round(decimals=4).tolist()
        [[1.0, 1.0, 0.0]]
    """
    n, lags = x.shape[-1], kernels.shape[-1]
    size = 1 << (4 * lags - 1).bit_length()
    hop = size - lags + 1
    n_blocks = -(-n // hop)
    padded = torch.nn.functional.pad(x, (0, n_blocks * hop - n))
    blocks = torch.fft.rfft(torch.unflatten(padded, -1, (n_blocks, hop)), n=size)
    product = torch.einsum("cuf,...ubf->...cbf", torch.fft.rfft(kernels, n=size), blocks)
    found: Tensor = torch.fft.irfft(product, n=size)
    # Each tail, lags - 1 long, falls on the head of the next block.
    tail = torch.nn.functional.pad(found[..., hop:], (0, hop - lags + 1, 1, 0))[..., :-1, :]
    return (found[..., :hop] + tail).flatten(-2)[..., :n]
