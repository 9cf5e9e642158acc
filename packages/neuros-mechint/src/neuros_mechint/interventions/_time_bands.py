"""Activations as sums of frequency bands or wavelet octaves along time."""

import functools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from numpy.polynomial import polynomial
from torch import Tensor, nn

__all__ = [
    "band_components",
    "daubechies",
    "octave_bands",
    "randomise_phases",
    "wavelet_components",
    "wavelet_depth",
]

Band = tuple[float, float]


def octave_bands(n: int, fs: float) -> list[Band]:
    """Octaves below half the sampling rate down to one period per signal, the highest first.

    Args:
        n: samples of a signal.
        fs: sampling rate in Hz.

    Returns:
        Lower and upper edges in Hz.

    Examples:
        >>> octave_bands(16, 100.0)
        [(25.0, 50.0), (12.5, 25.0), (6.25, 12.5)]
    """
    return [(fs / 2 ** (j + 1), fs / 2**j) for j in range(1, int(math.log2(n)))]


def band_components(
    x: Float[Tensor, "*batch time"], bands: Sequence[Band], fs: float
) -> Float[Tensor, "part *batch time"]:
    """Parts of signals in frequency bands, with ends reflected.

    A signal is continued by its mirror image at both ends, which makes it periodic without a jump;
    the bins `low <= f < high` of that are a band (with half the sampling rate, where it is an
    upper edge). Bands that do not overlap add up to the signal, with what no band holds.

    Args:
        x: signals.
        bands: lower and upper edges in Hz.
        fs: sampling rate in Hz.

    Returns:
        One part per band, then the rest, in the dtype of x.

    Raises:
        ValueError: when a band holds no frequency.

    Examples:
        >>> x = torch.tensor([0.0, 3.0, 1.0, 5.0])
        >>> low, high, rest = band_components(x, [(0.0, 0.25), (0.25, 0.5)], 1.0)
        >>> bool((low + high - x).abs().max() < 1e-6), bool(rest.any())
        (True, False)
    """
    n = x.shape[-1]
    whole = torch.cat([x, x[..., 1:-1].flip(-1)], -1)
    period = whole.shape[-1]
    spectrum = torch.fft.rfft(whole)
    # In bins, where an edge on a bin is a whole number but for rounding.
    masks = []
    for low, high in bands:
        first = max(0, math.ceil(low / fs * period - 1e-6))
        last = math.ceil(high / fs * period - 1e-6)
        last = period // 2 + 1 if last >= period / 2 else last
        if first >= last:
            raise ValueError(
                f"no frequency lies in the band of {low:g} to {high:g} Hz: {n} samples at {fs:g} "
                f"Hz with reflected ends have the frequencies 0, {fs / period:g}, ... up to "
                f"{fs / 2:g} Hz; widen the band"
            )
        mask = torch.zeros(spectrum.shape[-1], dtype=x.dtype, device=x.device)
        mask[first:last] = 1.0
        masks.append(mask)
    masks.append((torch.stack(masks).sum(0) == 0).to(x.dtype))
    parts = [torch.fft.irfft(spectrum * mask, period)[..., :n] for mask in masks]
    return torch.stack(parts)


def wavelet_depth(n: int, wavelet: str) -> int:
    """Octaves of a wavelet transform before the filter is longer than what is left.

    Args:
        n: samples of a signal.
        wavelet: `"db1"` to `"db20"`.

    Returns:
        The number of octaves.

    Examples:
        >>> wavelet_depth(128, "db4")
        4
    """
    taps = len(daubechies(wavelet))
    return int(math.log2(n / (taps - 1))) if n >= taps - 1 else 0


@functools.lru_cache(maxsize=32)
def daubechies(wavelet: str) -> tuple[float, ...]:
    r"""Low-pass filter of Daubechies' wavelet with N vanishing moments, of minimal phase.

    The roots inside the unit circle of $P(y) = \sum_{k<N} \binom{N-1+k}{k} y^k$,
    $y = (2 - z - 1/z) / 4$, together with N roots at -1.

    Args:
        wavelet: `"db1"` to `"db20"`.

    Returns:
        2 N taps whose sum is the square root of 2.

    Raises:
        ValueError: when the name is another.

    Examples:
        >>> [round(tap, 4) for tap in daubechies("db2")]
        [0.483, 0.8365, 0.2241, -0.1294]

    References:
        Daubechies (1988). Orthonormal bases of compactly supported wavelets. Communications on
        Pure and Applied Mathematics 41. https://doi.org/10.1002/cpa.3160410705
    """
    order = int(wavelet[2:]) if wavelet[:2] == "db" and wavelet[2:].isdecimal() else 0
    if not 1 <= order <= 20:
        raise ValueError(f"wavelet needs a name from 'db1' to 'db20', got {wavelet!r}")
    taps = polynomial.polypow([1.0, 1.0], order)
    y_roots = polynomial.polyroots([math.comb(order - 1 + k, k) for k in range(order)])
    for y in y_roots:
        # z + 1/z = 2 - 4 y has two roots, one inside the unit circle.
        half = 1 - 2 * y
        root = half + (half * half - 1) ** 0.5
        root = root if abs(root) < 1 else 1 / root
        taps = polynomial.polymul(taps, [1.0, -root])
    real = taps.real * (math.sqrt(2) / taps.real.sum())
    return tuple(float(tap) for tap in real)


def wavelet_components(
    x: Float[Tensor, "*batch time"], wavelet: str, n_octaves: int
) -> Float[Tensor, "part *batch time"]:
    """Parts of signals in the octaves of a discrete wavelet transform, with ends mirrored.

    Every part is the inverse transform of one octave's coefficients, and the last one that of what
    is slower than all octaves, so that they add up to the signal.

    Args:
        x: signals.
        wavelet: `"db1"` to `"db20"`.
        n_octaves: octaves, at least 1.

    Returns:
        One part per octave, the finest first, then the rest, in the dtype of x.

    Examples:
        >>> x = torch.tensor([1.0, 3.0, 2.0, 2.0])
        >>> fine, rest = wavelet_components(x, "db1", 1)  # differences and means of pairs
        >>> [round(v, 6) for v in fine.tolist()], [round(v, 6) for v in rest.tolist()]
        ([-1.0, 1.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0])
    """
    low, high = _filters(wavelet, x)
    rows = x.reshape(-1, 1, x.shape[-1])
    lengths, details = [], []
    for _ in range(n_octaves):
        lengths.append(rows.shape[-1])
        padded = _mirrored(rows, low.shape[-1] - 1)
        details.append(nn.functional.conv1d(padded[..., 1:], high, stride=2))
        rows = nn.functional.conv1d(padded[..., 1:], low, stride=2)
    waves = [_upsampled(detail, high, lengths[octave]) for octave, detail in enumerate(details)]
    parts = [_raised(wave, low, lengths[:octave]) for octave, wave in enumerate([*waves, rows])]
    return torch.stack([part.reshape(x.shape) for part in parts])


def _filters(wavelet: str, like: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.tensor(daubechies(wavelet), dtype=like.dtype, device=like.device)
    sign = torch.ones_like(low)
    sign[1::2] = -1.0
    return low[None, None], (low.flip(0) * sign)[None, None]


def _mirrored(rows: Float[Tensor, "row 1 time"], reach: int) -> Float[Tensor, "row 1 padded"]:
    """Continue signals by their mirror image on both sides, as often as it takes."""
    n = rows.shape[-1]
    k = torch.arange(-reach, n + reach, device=rows.device) % (2 * n)
    return rows[..., torch.where(k < n, k, 2 * n - 1 - k)]


def _upsampled(
    coefficients: Float[Tensor, "row 1 coefficient"], taps: Float[Tensor, "1 1 tap"], length: int
) -> Float[Tensor, "row 1 time"]:
    whole = nn.functional.conv_transpose1d(coefficients, taps, stride=2)
    start = taps.shape[-1] - 2
    return whole[..., start : start + length]


def _raised(
    wave: Float[Tensor, "row 1 coefficient"], taps: Float[Tensor, "1 1 tap"], lengths: list[int]
) -> Float[Tensor, "row 1 time"]:
    """Bring an octave to the rate of the signal, through the lengths of all finer ones."""
    for length in reversed(lengths):
        wave = _upsampled(wave, taps, length)
    return wave


def randomise_phases(
    x: Float[Tensor, "*batch time"], generator: torch.Generator
) -> Float[Tensor, "*batch time"]:
    """Signals with the amplitude spectra of x and random phases.

    All signals of a row (of the first axis) are shifted by the same phases, so that their
    cross-spectra stay. The mean and half the sampling rate have no phase and stay as they are.

    Args:
        x: signals.
        generator: source of the phases.

    Returns:
        Signals of the same shape.

    Examples:
        >>> x = torch.tensor([[0.0, 1.0, 0.0, -1.0]])
        >>> y = randomise_phases(x, torch.Generator().manual_seed(0))
        >>> round(y.square().sum().item(), 5)
        2.0

    References:
        Prichard & Theiler (1994). Generating surrogate data for time series with several
        simultaneously measured variables. Physical Review Letters 73.
        https://doi.org/10.1103/PhysRevLett.73.951
    """
    n = x.shape[-1]
    spectrum = torch.fft.rfft(x)
    shape = [*x.shape[: min(1, x.ndim - 1)], *[1] * (x.ndim - 2), spectrum.shape[-1]]
    turns = torch.rand(shape, generator=generator, device=generator.device, dtype=x.dtype)
    turns[..., 0] = 0.0
    if n % 2 == 0:
        turns[..., -1] = 0.0
    angle = 2 * math.pi * turns.to(x.device)
    shifted: Tensor = torch.fft.irfft(spectrum * torch.complex(angle.cos(), angle.sin()), n)
    return shifted
