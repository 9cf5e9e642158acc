"""Samples of a signal at any instant, with the anti-alias filter of a lower rate.

Probes of one session have clocks that differ by some 1e-5, which is many samples in an hour: a
ratio of rates cannot bring them together, instants can.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_STOP_DB = 70.0
_PASS = 0.8  # of the new Nyquist frequency
_TERMS = 1 << 21  # at a time: 16 MB per array of weights


class FractionalFilter:
    r"""A filter that gives its output at any instant, not only at the input's samples.

    $y(\tau) = \sum_n x_n h(\tau - n) / \sum_n h(\tau - n)$ with $\tau$ in samples of the input and
    $h$ a sinc under a Kaiser window: flat to 80 % of the new Nyquist frequency, 70 dB down from it.

    Args:
        rate: Rate of the input in Hz.
        new_rate: Rate of the output in Hz, at most that of the input.

    Examples:
        >>> kernel = FractionalFilter(1000.0, 50.0)
        >>> np.round(kernel.apply(np.ones((400, 1)), np.array([199.5])), 9).tolist()
        [[1.0]]
    """

    def __init__(self, rate: float, new_rate: float) -> None:
        nyquist = min(new_rate, rate) / 2
        width = (1 - _PASS) * nyquist / rate
        self.half = int(np.ceil((_STOP_DB - 7.95) / (14.36 * width) / 2))
        self.support = (self.half + 1) / rate
        self._cut = (1 + _PASS) * nyquist / rate
        self._beta = 0.1102 * (_STOP_DB - 8.7)

    def apply(
        self, data: Any, position: NDArray[np.float64], *, factor: float = 1.0
    ) -> NDArray[np.float64]:
        """The output at every position.

        Args:
            data: Samples, shape (time, channel); anything that gives arrays when it is sliced.
            position: Instants in samples of the input, increasing, shape (output,).
            factor: What every sample is multiplied by.

        Returns:
            Filtered samples, shape (output, channel).
        """
        step = max(1, _TERMS // (2 * self.half + 1))
        blocks = [
            self._block(data, position[i : i + step]) * factor
            for i in range(0, len(position), step)
        ]
        return np.concatenate([np.zeros((0, data.shape[1])), *blocks])

    def _block(self, data: Any, position: NDArray[np.float64]) -> NDArray[np.float64]:
        from scipy.sparse import csr_array

        n = data.shape[0]
        samples = np.rint(position).astype(np.int64)[:, None]
        samples = samples + np.arange(-self.half, self.half + 1)
        h = self._kernel(position[:, None] - samples)
        h *= (samples >= 0) & (samples < n)
        h /= h.sum(axis=1, keepdims=True)
        samples = np.clip(samples, 0, n - 1)
        low, high = int(samples.min()), int(samples.max()) + 1
        rows = np.arange(0, samples.size + 1, samples.shape[1])
        operator = csr_array(
            (h.ravel(), (samples - low).ravel(), rows), shape=(len(position), high - low)
        )
        return np.asarray(operator @ np.asarray(data[low:high], np.float64), dtype=np.float64)

    def _kernel(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        from scipy.special import i0

        inside = np.clip(1 - (distance / (self.half + 0.5)) ** 2, 0, None)
        # NumPy's own i0 takes nearly twice as long, and is most of the work.
        window: NDArray[np.float64] = i0(self._beta * np.sqrt(inside))
        return np.sinc(self._cut * distance) * window
