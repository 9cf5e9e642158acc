r"""Higuchi's dimension of a window that slides over a stream, at a cost that the window leaves out.

With $d_k(j) = |x_{j+k} - x_j|$, $Q = \lfloor (N-1)/k \rfloor$ and $\rho = (N-1) \bmod k$, the
length at lag $k$ of the window that begins at $s$ has two weights only,

$$L_k = \frac{N-1}{k^3} \Big[ \frac{T - A}{Q - 1} + \frac{A}{Q} \Big],$$

$T$ the sum of all $d_k$ in the window and $A$ that of the phases $0..\rho$. A step of the window
changes $T$ by the pair that enters and the one that leaves, and $A$ by the comb
$C(a) = \sum_{i<Q} d_k(a + ik)$ that is complete at last, $C(s + \rho + 1)$, and the one that
leaves, $C(s)$. A comb follows from the one $k$ samples before by one pair in, one pair out.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from neuros_mechint.fractals._higuchi import HiguchiFractalDimension

__all__ = ["SlidingHiguchi"]

_Samples = NDArray[np.float64]

# Samples of one step: its work within a lag is a product with a matrix of this order.
_BLOCK = 64
# A sum that falls this far below the largest since it was taken anew has lost as many digits.
_LOST = 1e-6


class SlidingHiguchi:
    """Dimension of the last `window` samples after each new one, for several channels at once.

    Args:
        window: samples of the window, at least `2 * k_max + 1`.
        k_max: largest lag.
        channels: number of channels.

    Attributes:
        count: samples seen of each channel.

    Examples:
        >>> sliding = SlidingHiguchi(window=25, k_max=5, channels=1)
        >>> sliding.push(np.arange(26.0)[None])[0, -2:].round(9).tolist()
        [1.0, 1.0]
    """

    def __init__(self, *, window: int, k_max: int, channels: int) -> None:
        self.window = window
        self.k_max = k_max
        self.channels = channels
        self.count = 0
        k = np.arange(1, k_max + 1)
        self._full, self._rest = (window - 1) // k, (window - 1) % k
        scale = (window - 1) / k**3.0
        self._of_all = (scale / (self._full - 1))[:, None]
        self._of_first = (scale / self._full)[:, None] - self._of_all
        log_scale = -np.log(k)
        centred = log_scale - log_scale.mean()
        self._line = centred / (centred @ centred)
        i, j = np.ogrid[: _BLOCK + k_max, :_BLOCK]
        # Row i adds the earlier samples of the phase of i.
        self._earlier = ((j < i) & ((i - j) % k[:, None, None] == 0)).astype(np.float64)
        self._places = self._layout()
        self._rows = np.arange(k_max)[:, None]
        self._buffer = np.zeros((channels, 2 * window + _BLOCK))
        self._end = 0
        self._all, self._first, self._largest = (np.zeros((channels, k_max, 1)) for _ in range(3))
        self._pending = np.zeros((channels, k_max, k_max))

    def _layout(self) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """Places that a step reads: of samples from the first new one, and of combs."""
        k, new = np.arange(1, self.k_max + 1)[:, None], np.arange(_BLOCK)
        old = new - self.window
        begun = old + self._rest[:, None] + 1
        zero = 0 * k
        # The pair that enters, the pair that leaves, and the one at which a new comb begins: one
        # gather costs a third of three.
        pairs = np.array([[new + zero, old + k, begun + k], [new - k, old + zero, begun]])
        combs = self.k_max * (k - 1) + np.arange(_BLOCK + self.k_max) % k
        return pairs, combs, new + k - self._rest[:, None] - 1

    def push(self, samples: _Samples) -> _Samples:
        """Take new samples.

        Args:
            samples: `(channels, time)`, finite.

        Returns:
            The dimension after each, `(channels, time)`: nan before `window` samples are in and
            where the curve of the window has length zero at some lag.

        Examples:
            >>> SlidingHiguchi(window=5, k_max=2, channels=1).push(np.arange(5.0)[None]).round(9)
            array([[nan, nan, nan, nan,  1.]])
        """
        parts = []
        start = 0
        while start < samples.shape[1]:
            # A block ends where the sums are taken anew.
            room = min(_BLOCK, self.window - self.count % self.window)
            block = samples[:, start : start + room]
            parts.append(self._advance(block))
            start += block.shape[1]
        return np.concatenate(parts, axis=1) if parts else np.empty((self.channels, 0))

    def state(self) -> dict[str, NDArray[np.float64] | int]:
        """Return what the next sample depends on.

        Returns:
            Copies of the samples in the window and of the running sums, and their count.

        Examples:
            >>> sorted(SlidingHiguchi(window=5, k_max=2, channels=1).state())
            ['all', 'count', 'first', 'largest', 'pending', 'samples']
        """
        samples = self._buffer[:, self._end - min(self.count, self.window) : self._end]
        return {
            "count": self.count,
            "samples": samples.copy(),
            "all": self._all.copy(),
            "first": self._first.copy(),
            "largest": self._largest.copy(),
            "pending": self._pending.copy(),
        }

    def restore(self, state: dict[str, NDArray[np.float64] | int]) -> None:
        """Continue from a state.

        Args:
            state: what `state` returned.

        Examples:
            >>> sliding = SlidingHiguchi(window=5, k_max=2, channels=1)
            >>> sliding.restore(sliding.state())
        """
        samples = np.asarray(state["samples"])
        self.count = int(state["count"])
        self._end = samples.shape[1]
        self._buffer[:, : self._end] = samples
        self._all, self._first, self._largest, self._pending = (
            np.array(state[name]) for name in ("all", "first", "largest", "pending")
        )

    def _advance(self, block: _Samples) -> _Samples:
        n = block.shape[1]
        self._append(block)
        warm = self.count >= self.window
        self.count += n
        if not warm:
            dimension = np.full(block.shape, np.nan)
            if self.count == self.window:
                self._sum_anew()
                dimension[:, -1:] = self._dimension(self._lengths(self._all, self._first))
            return dimension
        sums, first = self._step(n)
        largest = np.maximum(self._largest, sums.max(-1, keepdims=True))
        if (sums < _LOST * largest).any():
            # Rounding of what has left would show: each window of this block by itself.
            self._sum_anew()
            return self._directly(n)
        self._all, self._first, self._largest = sums[..., -1:], first[..., -1:], largest
        dimension = self._dimension(self._lengths(sums, first))
        if self.count % self.window == 0:
            self._sum_anew()
        return dimension

    def _append(self, block: _Samples) -> None:
        n = block.shape[1]
        if self._end + n > self._buffer.shape[1]:
            self._buffer[:, : self.window] = self._buffer[:, self._end - self.window : self._end]
            self._end = self.window
        self._buffer[:, self._end : self._end + n] = block
        self._end += n

    def _step(self, n: int) -> tuple[_Samples, _Samples]:
        """T and A after each of the `n` samples last appended, `(channels, lag, n)`."""
        pairs, combs, left = self._places
        values = self._buffer[:, pairs[..., :n] + (self._end - n)]
        entering, leaving, inside = np.abs(values[:, 0] - values[:, 1]).swapaxes(0, 1)
        # Combs short of their last pair, for the phases of these samples and the next k.
        reach = n + self.k_max
        flat = self._pending.reshape(self.channels, -1)
        pending = flat[:, combs[:, :reach]]
        pending += (self._earlier[:, :reach, :n] @ (entering - inside)[..., None])[..., 0]
        self._pending = pending[..., n:]
        change = pending[..., :n] + entering - leaving
        change -= pending[:, self._rows, left[:, :n]]
        sums = self._all + (entering - leaving).cumsum(-1)
        return sums, self._first + change.cumsum(-1)

    def _sum_anew(self) -> None:
        """Take every sum from the samples, which ends the drift of rounding."""
        x = self._buffer[:, self._end - self.window : self._end]
        for row, (full, rest) in enumerate(zip(self._full, self._rest, strict=True)):
            k = row + 1
            pairs = np.abs(x[:, k:] - x[:, :-k])
            # All phases have full - 1 pairs; the first of them have one more.
            last = (full - 1) * k
            phases, tail = pairs[:, :last].reshape(-1, full - 1, k).sum(1), pairs[:, last:]
            extra = tail.sum(-1)
            self._all[:, row, 0] = phases.sum(-1) + extra
            self._first[:, row, 0] = phases[:, : rest + 1].sum(-1) + extra
            begun = phases[:, : rest + 1] - pairs[:, : rest + 1] + tail
            combs = np.concatenate([phases[:, rest + 1 :], begun], axis=1)
            self._pending[:, row] = combs[:, np.arange(self.k_max) % k]
        self._largest = self._all.copy()

    def _lengths(self, sums: _Samples, first: _Samples) -> _Samples:
        return self._of_all * sums + self._of_first * first

    def _directly(self, n: int) -> _Samples:
        first = self._end - self.window - n + 1
        windows = np.lib.stride_tricks.sliding_window_view(
            self._buffer[:, first : self._end], self.window, axis=-1
        )
        logs = HiguchiFractalDimension(k_max=self.k_max).curve(torch.from_numpy(windows.copy()))[1]
        return self._dimension(logs.exp().transpose(-1, -2).numpy())

    def _dimension(self, lengths: _Samples) -> _Samples:
        usable: NDArray[np.bool_] = np.all(lengths > 0, axis=-2)
        logs = np.log(np.where(usable[:, None], lengths, 1.0))
        return np.where(usable, self._line @ logs, np.nan)
