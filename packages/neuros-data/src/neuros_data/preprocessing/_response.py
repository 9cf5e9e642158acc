"""Impulse responses: how a filter is designed, run, and how far it reaches."""

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
_HAMMING = 3.3  # transition of a Hamming window times the length of the filter
_TAIL = 1e-3


def design_fir(low: float | None, high: float | None, rate: float) -> Samples:
    """Windowed sinc of odd length; each corner has the length that its own transition needs."""
    from scipy.signal import firwin

    lowpasses = []
    if high is not None:
        lowpasses.append((1.0, high, min(max(high / 4, 2.0), rate / 2 - high), +1))
    if low is not None:
        lowpasses.append((-1.0, low, min(max(low / 4, 2.0), low), -1))
    sizes = [_odd(_HAMMING * rate / width) for _, _, width, _ in lowpasses]
    h = np.zeros(max(sizes))
    if high is None:
        h[len(h) // 2] = 1.0
    for (sign, corner, width, side), size in zip(lowpasses, sizes, strict=True):
        # The transition lies outside of the band; its middle is where the response is a half.
        edge = (len(h) - size) // 2
        h[edge : edge + size] += sign * firwin(size, corner + side * width / 2, fs=rate)
    return h


def _odd(length: float) -> int:
    size = round(length)
    return size + 1 - size % 2


def design_butterworth(low: float | None, high: float | None, order: int, rate: float) -> Samples:
    """Second-order sections of a band-pass, a low-pass or a high-pass."""
    from scipy.signal import butter

    if low is None:
        sos: Samples = butter(order, float(high or 0.0), "low", fs=rate, output="sos")
    elif high is None:
        sos = butter(order, low, "high", fs=rate, output="sos")
    else:
        sos = butter(order, [low, high], "band", fs=rate, output="sos")
    return sos


def run_fir(h: Samples, x: Samples, *, causal: bool) -> Samples:
    """Convolve along time; a zero-phase filter takes half its delay off."""
    from scipy.signal import lfilter, oaconvolve

    n, half = len(x), len(h) // 2
    if causal:
        # Term by term: a Fourier transform would let later samples into the last digits.
        before = np.repeat(x[:1], len(h) - 1, axis=0)
        late: Samples = lfilter(h, np.ones(1), np.concatenate([before, x]), axis=0)
        return late[len(h) - 1 :]
    # Of a reflection there is no more than the signal; beyond it lie zeros.
    size = min(half, n - 1)
    first = 2 * x[:1] - x[size:0:-1]
    last = 2 * x[-1:] - x[::-1][1 : size + 1]
    zeros = np.zeros((half - size, x.shape[1]))
    padded = np.concatenate([zeros, first, x, last, zeros])
    filtered: Samples = oaconvolve(padded, h[:, None], mode="valid", axes=0)
    return filtered


def run_iir(sos: Samples, x: Samples, *, causal: bool) -> Samples:
    """Second-order sections along time, forwards or both ways."""
    from scipy.signal import sosfilt, sosfilt_zi, sosfiltfilt

    if causal:
        state = sosfilt_zi(sos)[:, :, None] * x[:1]
        filtered: Samples = sosfilt(sos, x, axis=0, zi=state)[0]
        return filtered
    sections = 2 * len(sos) + 1
    sections -= min(int((sos[:, 2] == 0).sum()), int((sos[:, 5] == 0).sum()))
    both: Samples = sosfiltfilt(sos, x, axis=0, padlen=min(3 * sections, len(x) - 1))
    return both


def iir_reach(sos: Samples, *, causal: bool) -> int:
    """Samples to either side beyond which the response is negligible, each sample and the rest."""
    from scipy.signal import fftconvolve, sosfilt

    poles = np.concatenate([np.roots(section[3:]) for section in sos])
    decay = float(np.abs(poles).max())
    # Poles that lie together decay more slowly than one of them: hence the generous exponent.
    size = int(np.ceil(np.log(1e-12) / np.log(max(decay, 1e-3)))) + 2
    impulse = np.zeros(size)
    impulse[0] = 1.0
    response: Samples = sosfilt(sos, impulse)
    if not causal:
        response = fftconvolve(response, response[::-1])[size - 1 :]
    magnitude = np.abs(response)
    rest = np.cumsum(magnitude[::-1])[::-1]
    lasting = (magnitude >= _TAIL * magnitude.max()) | (rest >= _TAIL * rest[0])
    return int(np.flatnonzero(lasting)[-1])
