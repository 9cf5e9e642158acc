"""What a scattering transform of one length needs: padding, cropped filters and averages."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from neuros_neurofm.tokenizers._scattering_filters import (
    SIGMA,
    Wavelet,
    gaussian,
    half_support,
    morlet,
)

__all__ = [
    "Average",
    "Band",
    "Level",
    "Padding",
    "Plan",
    "average",
    "depth",
    "make_padding",
    "make_plan",
]

# Radius of the low-pass in units of its scale: 12 / 1.59 = 7.5 standard deviations, 1e-12.
_RADIUS = 12
# Outputs per matrix product of the average; the fastest of 32 and 64.
_BLOCK = 64
# A window of the spectrum may leave out this share of a filter's L1 norm.
_LEFT_OUT = 1e-9


class Padding(NamedTuple):
    """How a signal is padded, and which outputs belong to it.

    Attributes:
        length: Padded length, a power of 2.
        left: Samples before the signal.
        right: Samples after it.
        first: First output.
        n_outputs: Number of outputs.
    """

    length: int
    left: int
    right: int
    first: int
    n_outputs: int


class Band(NamedTuple):
    """A filter on the only bins of the spectrum where it is not 0.

    Attributes:
        start: First bin; negative frequencies have negative bins.
        response: Frequency response there, (bin,), divided by the subsampling.
    """

    start: int
    response: Tensor


class Average(NamedTuple):
    """The low-pass as a matrix product on overlapping stretches of time.

    Attributes:
        start: First sample of the first stretch.
        hop: Samples from one stretch to the next.
        n_stretches: Number of stretches.
        weights: (sample, output).
    """

    start: int
    hop: int
    n_stretches: int
    weights: Tensor


class Level(NamedTuple):
    """First-order wavelets of equal subsampling, and what follows them.

    Attributes:
        k: The output of the first order is subsampled by 2^k.
        bands: First-order filters.
        inner: Second-order filters, each with the subsampling of its output.
    """

    k: int
    bands: tuple[Band, ...]
    inner: tuple[tuple[int, Band], ...]


class Plan(NamedTuple):
    """Everything that depends on length, dtype and device, but not on the values.

    Attributes:
        padding: Padding of the signal.
        levels: First-order filters with their successors, from the highest frequency.
        averages: Low-pass per subsampling 2^k of its input.
    """

    padding: Padding
    levels: tuple[Level, ...]
    averages: dict[int, Average]


def depth(T: int) -> int:
    """Outputs are subsampled by 2^depth."""
    return math.floor(math.log2(T))


def make_padding(n: int, T: int) -> Padding:
    """Reflection, three supports of the low-pass per side or as much as there is to reflect."""
    wanted = n + 6 * half_support(n, SIGMA / T)
    length = 2 ** min(math.ceil(math.log2(wanted)), math.floor(math.log2(3 * n - 2)))
    left = (length - n) // 2
    step = 2 ** depth(T)
    first, last = -(-left // step), -(-(left + n) // step)
    return Padding(length, left, length - n - left, first, last - first)


def make_plan(
    n: int, *, first: Sequence[Wavelet], second: Sequence[Wavelet], T: int, like: Tensor
) -> Plan:
    """The plan of signals of `n` samples, in the dtype and on the device of `like`."""
    padding, deepest = make_padding(n, T), depth(T)
    responses = [morlet(padding.length, w.xi, w.sigma) for w in second]
    levels = []
    for j in sorted({w.j for w in first}):
        k1 = min(j, deepest)
        bands = [_band(morlet(padding.length, w.xi, w.sigma), k1, like) for w in first if w.j == j]
        # The second wavelet is slower than the first: |x * psi1| holds nothing above its width.
        inner = [
            (min(w.j, deepest), _band(r.reshape(2**k1, -1).mean(0), min(w.j, deepest) - k1, like))
            for w, r in zip(second, responses, strict=True)
            if w.j > j
        ]
        levels.append(Level(k1, tuple(bands), tuple(inner)))
    kernel = np.fft.ifft(gaussian(padding.length, SIGMA / T)).real
    used = {0} | {level.k for level in levels} | {k for level in levels for k, _ in level.inner}
    averages = {k: _make_average(kernel, padding, k, T, like) for k in sorted(used)}
    return Plan(padding, tuple(levels), averages)


def _band(response: NDArray[np.float64], k: int, like: Tensor) -> Band:
    """The 1 / 2^k of the bins that hold the filter.

    Subsampling by 2^k folds the spectrum. A filter that fits into one window of the folded length
    folds to that window, rotated: a phase in time, which the modulus removes.
    """
    n = response.shape[0]
    if k == 0:
        return Band(0, torch.from_numpy(response).to(like))
    size = n >> k
    weight = np.abs(response)
    running = np.concatenate([[0.0], np.tile(weight, 2).cumsum()])
    inside = running[size : size + n] - running[:n]
    good = np.flatnonzero(inside >= inside.max() - _LEFT_OUT * weight.sum())
    # A window that runs over the end of the spectrum starts at a negative frequency.
    starts = np.where(good + size > n, good - n, good)
    start = int(starts[np.abs(starts).argmin()])
    rows = response[np.arange(start, start + size) % n] / 2**k
    return Band(start, torch.from_numpy(rows).to(like))


def _make_average(
    kernel: NDArray[np.float64], padding: Padding, k: int, T: int, like: Tensor
) -> Average:
    step = 2 ** depth(T)
    radius = -(-_RADIUS * T // step) * step
    n, block = padding.length, min(_BLOCK, padding.n_outputs)
    begin, size = padding.first * step - radius, (block - 1) * step + 2 * radius
    end = (padding.first + padding.n_outputs - 1) * step + radius
    if begin < 0 or end > n:
        # Little to reflect: the low-pass wraps around, and one matrix holds all of it.
        begin, size, block = 0, n, padding.n_outputs
    at = (padding.first + np.arange(block)) * step
    samples = begin + np.arange(0, size, 2**k)
    weights = kernel[(at[None] - samples[:, None]) % n]
    count = -(-padding.n_outputs // block)
    return Average(begin >> k, (block * step) >> k, count, torch.from_numpy(weights).to(like))


def average(
    u: Float[Tensor, "*rows sample"], low: Average, n_outputs: int
) -> Float[Tensor, "*rows output"]:
    """Low-pass at the resolution of the output."""
    size = low.weights.shape[0]
    end = low.start + size + (low.n_stretches - 1) * low.hop
    if end > u.shape[-1]:
        # Only outputs past the last one read these zeros.
        u = torch.nn.functional.pad(u, (0, end - u.shape[-1]))
    stretches = u[..., low.start : end].unfold(-1, size, low.hop)
    # One matrix product: a batch of products, one per row, is slower (bench_scattering.py).
    blocks = stretches.reshape(-1, size) @ low.weights
    return blocks.view(*u.shape[:-1], -1)[..., :n_outputs]
