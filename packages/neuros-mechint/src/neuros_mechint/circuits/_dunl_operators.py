r"""Sums of shifted kernels, and what they share with a signal.

A signal is $\eta = \sum_k h_k * x_k$, a full convolution: a code of length T - L + 1 and a kernel
of length L give a signal of length T. In matrix form $\eta = H x$. A group is a set of signals
with kernels of its own: a neuron, where neurons do not share kernels, or a restart.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as nnf

__all__ = ["Convolution", "lipschitz", "shift_correlation", "strongest", "unit_kernels"]


def unit_kernels(
    weight: Float[Tensor, "*group factor tap"], *, nonneg: bool
) -> Float[Tensor, "*group factor tap"]:
    """Kernels of Euclidean norm 1 from free weights.

    Examples:
        >>> unit_kernels(torch.tensor([[3.0, -4.0]]), nonneg=False)
        tensor([[ 0.6000, -0.8000]])
    """
    shape = weight.clamp(min=0) if nonneg else weight
    return nnf.normalize(shape, dim=-1, eps=torch.finfo(weight.dtype).tiny ** 0.5)


class Convolution:
    """Kernels on signals of one length, in the frequency domain.

    For kernels of 16 samples a pair of transforms costs about half of a pair of direct
    convolutions on a CPU, and less for longer ones.

    Examples:
        >>> made = Convolution(torch.tensor([[[1.0, 3.0]]]), 4)
        >>> code = torch.tensor([[[[0.0, 2.0, 0.0]]]])
        >>> made.synthesize(code).round(decimals=3).abs()
        tensor([[[0., 2., 6., 0.]]])
        >>> made.correlate(torch.tensor([[[0.0, 2.0, 6.0, 0.0]]])).round(decimals=3)
        tensor([[[[ 6., 20.,  6.]]]])
    """

    def __init__(self, kernels: Float[Tensor, "group factor tap"], n_time: int) -> None:
        self.n_time, self.n_events = n_time, n_time - kernels.shape[-1] + 1
        # On a circle of at least n_time samples no sum of shifted kernels meets its own end.
        self._n = _fast_length(n_time)
        self._spectrum = torch.fft.rfft(kernels, n=self._n)
        self._conjugate = self._spectrum.conj().resolve_conj()

    def synthesize(
        self, codes: Float[Tensor, "batch group factor event"]
    ) -> Float[Tensor, "batch group time"]:
        r"""The signal $H x$."""
        summed = (self._spectrum * torch.fft.rfft(codes, n=self._n)).sum(-2)
        made: Tensor = torch.fft.irfft(summed, n=self._n)
        return made[..., : self.n_time]

    def correlate(
        self, signal: Float[Tensor, "batch group time"]
    ) -> Float[Tensor, "batch group factor event"]:
        r"""The inner products $H^\top r$ of a signal with every shifted kernel."""
        product = self._conjugate * torch.fft.rfft(signal, n=self._n)[:, :, None]
        found: Tensor = torch.fft.irfft(product, n=self._n)
        return found[..., : self.n_events]


def _fast_length(n: int) -> int:
    """The smallest length of at least n with no prime factor above 5."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def lipschitz(kernels: Float[Tensor, "group factor tap"], n_time: int) -> Float[Tensor, " group"]:
    r"""Upper bound of the largest eigenvalue of $H^\top H$.

    It is $\max_\omega \sum_k |\hat h_k(\omega)|^2$. On a circle of n_time samples it is the
    eigenvalue itself, and H is a part of that circulant.

    Examples:
        >>> lipschitz(torch.tensor([[[0.6, 0.8]]]), 8)
        tensor([1.9600])
    """
    power: Tensor = torch.fft.rfft(kernels, n=n_time).abs().square()
    return power.sum(-2).amax(-1)


def shift_correlation(
    first: Float[Tensor, "factor tap"], second: Float[Tensor, "factor tap"]
) -> Float[Tensor, "factor factor"]:
    """Largest absolute correlation of any two kernels over all shifts of one against the other.

    Examples:
        >>> a = torch.tensor([[1.0, 0.0, 0.0]])
        >>> shift_correlation(a, a.roll(2, -1))
        tensor([[1.]])
    """
    n = 2 * first.shape[-1]
    spectrum = torch.fft.rfft(first, n=n)[:, None] * torch.fft.rfft(second, n=n).conj()
    norms: Tensor = first.norm(dim=-1)[:, None] * second.norm(dim=-1)
    product: Tensor = torch.fft.irfft(spectrum, n=n)
    found: Tensor = product.abs().amax(-1) / norms
    return found


def strongest(codes: Float[Tensor, "*batch event"], count: int) -> Bool[Tensor, "*batch event"]:
    """Where the codes that are largest in size are, so many of every factor.

    Examples:
        >>> strongest(torch.tensor([0.1, -3.0, 2.0]), 2)
        tensor([False,  True,  True])
    """
    kept = codes.abs().topk(min(count, codes.shape[-1]), dim=-1).indices
    return torch.zeros_like(codes, dtype=torch.bool).scatter_(-1, kept, value=1)
