"""Another rate, and a regular clock for what has none."""

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from neuros_core import Signal
from neuros_data.preprocessing._marks import regular_rate, remarked, unmarked
from neuros_data.preprocessing.step import check_positive

__all__ = ["Interpolate", "Resample"]

_STOP_DB = 80.0
_PASS = 0.8  # of the lower Nyquist frequency
_TERMS = 10_000


@dataclass(frozen=True)
class Resample:
    r"""Change the rate of a regular signal, with an anti-alias filter without a phase shift.

    The filter is a sinc under a Kaiser window: flat to 80 % of the lower of the two Nyquist
    frequencies and 80 dB down from it on. With $v$ one where a sample was measured and zero
    elsewhere, the output is $\sum h\,v\,x / \sum h\,v$: a level is kept up to the edge of a gap
    and up to the ends, and no NaN spreads. An output sample is valid when the two input samples
    around it are.

    Args:
        rate: New rate in Hz.

    Raises:
        ValueError: When the rate is not positive.

    Examples:
        >>> x = Signal(np.sin(2 * np.pi * 10 * np.arange(2000) / 1000)[:, None], rate=1000.0)
        >>> y = Resample(250.0).apply(x)
        >>> y.rate, y.data.shape, round(float(y.data[100:400].max()), 2)
        (250.0, (500, 1), 1.0)
    """

    rate: float

    def __post_init__(self) -> None:
        check_positive("rate", self.rate)

    def _ratio(self, rate: float) -> Fraction:
        return Fraction(self.rate / rate).limit_denominator(_TERMS)

    def _half(self, rate: float) -> float:
        """Half the filter's length in seconds."""
        width = (1 - _PASS) * min(rate, self.rate) / 2
        return float((_STOP_DB - 7.95) / (14.36 * width) / 2)

    def apply(self, signal: Signal) -> Signal:
        """Bring every channel to the new rate.

        Args:
            signal: On a regular clock.

        Returns:
            Samples at the new rate, from the same first instant on.

        Raises:
            ValueError: When the clock is irregular, or no fraction of terms up to 10 000 is close
                enough to the ratio of the rates for a signal of this length.
        """
        rate = regular_rate(signal, "resampling")
        ratio = self._ratio(rate)
        drift = abs(float(ratio) * rate / self.rate - 1) * len(signal.data)
        if drift > 0.1:
            raise ValueError(
                f"resampling from {rate} to {self.rate} Hz needs a ratio of whole numbers up to "
                f"{_TERMS}; the nearest is off by {drift:.2g} samples at the end; choose a rate "
                f"such as {float(ratio) * rate:.9g} Hz"
            )
        data = unmarked(signal)
        if ratio == 1 or not len(data):
            return remarked(signal, data, rate=self.rate)
        return remarked(signal, self._resampled(data, ratio, rate), rate=self.rate)

    def _resampled(
        self, data: NDArray[np.float64], ratio: Fraction, rate: float
    ) -> NDArray[np.float64]:
        from scipy.signal import firwin

        up, down = ratio.numerator, ratio.denominator
        fast = rate * up
        # A whole number of output samples: the filter's delay is then cut off exactly.
        half = int(np.ceil(self._half(rate) * fast / down)) * down
        corner = (1 + _PASS) / 2 * min(rate, self.rate) / 2
        h = firwin(2 * half + 1, corner, window=("kaiser", 0.1102 * (_STOP_DB - 8.7)), fs=fast)
        known = ~np.isnan(data)
        # All channels share the weights where nothing is missing.
        weighed = known[:, :1] if known.all() else known
        total = _polyphase(h, np.where(known, data, 0.0), up, down)
        weight = _polyphase(h, weighed.astype(np.float64), up, down)
        position = np.arange(len(total)) * down / up
        before = np.minimum(np.floor(position + 1e-9).astype(np.intp), len(data) - 1)
        after = np.minimum(np.ceil(position - 1e-9).astype(np.intp), len(data) - 1)
        kept = known[before] & known[after]
        out = np.full(total.shape, np.nan)
        np.divide(total, weight, out=out, where=kept & (np.abs(weight) > 1e-3))
        return out

    def support(self, rate: float) -> float:
        """Half the length of the filter in seconds.

        Args:
            rate: Rate in Hz of what goes in.

        Returns:
            Seconds; 0 when the rate is not changed.

        Examples:
            >>> round(Resample(100.0).support(1000.0), 3), Resample(100.0).support(100.0)
            (0.262, 0.0)
        """
        return 0.0 if self._ratio(rate) == 1 else self._half(rate) + 1 / self.rate + 1 / rate

    def output_rate(self, rate: float) -> float:
        """The new rate.

        Args:
            rate: Rate in Hz of what goes in, which does not matter.

        Returns:
            The new rate in Hz.
        """
        del rate  # the new rate is the same whatever comes in
        return self.rate


def _polyphase(
    h: NDArray[np.float64], x: NDArray[np.float64], up: int, down: int
) -> NDArray[np.float64]:
    """Filter at `up` times the rate and keep every `down`-th sample, the first at the first."""
    from scipy.signal import upfirdn

    delay = len(h) // 2 // down
    size = -(-len(x) * up // down)
    # The output ends with the last sample that the input reaches; the zeros let it reach the end.
    padded = np.concatenate([x, np.zeros((-(-len(h) // up) + 1, x.shape[1]))])
    filtered: NDArray[np.float64] = upfirdn(h, padded, up, down, axis=0)
    return filtered[delay : delay + size]


@dataclass(frozen=True)
class Interpolate:
    """Put a signal with time stamps on a regular clock, by straight lines between its samples.

    There is no anti-alias filter: choose a rate above that of the samples, then filter and
    resample. Samples that were not measured are left out, as if they had no time stamp.

    Args:
        rate: Rate of the clock in Hz.
        longest_gap: Seconds between two samples beyond which what lies between them is invalid.
            None bridges every gap: right for a wheel, whose position is written when it moves.

    Raises:
        ValueError: When a number is not positive.

    Examples:
        >>> x = Signal(np.array([[0.0], [1.0], [4.0]]), times=np.array([0.0, 0.5, 2.0]))
        >>> Interpolate(2.0).apply(x).data.ravel().tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0]
        >>> Interpolate(2.0, longest_gap=1.0).apply(x).valid.ravel().tolist()
        [True, True, False, False, True]
    """

    rate: float
    longest_gap: float | None = None

    def __post_init__(self) -> None:
        check_positive("rate", self.rate)
        if self.longest_gap is not None:
            check_positive("longest_gap", self.longest_gap)

    def apply(self, signal: Signal) -> Signal:
        """Interpolate every channel.

        Args:
            signal: With time stamps, or on another regular clock.

        Returns:
            Samples from the first time stamp to the last one.

        Raises:
            ValueError: When the signal has no sample.
        """
        n = len(signal.data)
        if not n:
            raise ValueError("interpolation needs at least one sample, got none")
        times = signal.times
        if times is None:
            times = signal.start + np.arange(n) / float(signal.rate or 1.0)
        start = float(times[0])
        size = int(np.floor((float(times[-1]) - start) * self.rate + 1e-6)) + 1
        clock = start + np.arange(size) / self.rate
        data = unmarked(signal)
        columns = [self._channel(clock, times, column) for column in data.T]
        stacked = np.stack(columns, axis=1) if columns else np.zeros((size, 0))
        return replace(remarked(signal, stacked, rate=self.rate), start=start)

    def _channel(
        self, clock: NDArray[np.float64], times: NDArray[np.float64], column: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        known = ~np.isnan(column)
        out = np.full(len(clock), np.nan)
        if not known.any():
            return out
        t, x = times[known], column[known]
        # Rounding of the clock must not push its last instant past the last sample.
        inside = (clock >= t[0] - 1e-9) & (clock <= t[-1] + 1e-9)
        out[inside] = np.interp(clock[inside], t, x)
        if self.longest_gap is not None and len(t) > 1:
            i = np.searchsorted(t, clock + 1e-9, side="right").clip(1, len(t) - 1)
            on_sample = (np.abs(clock - t[i]) <= 1e-9) | (np.abs(clock - t[i - 1]) <= 1e-9)
            out[(t[i] - t[i - 1] > self.longest_gap) & ~on_sample] = np.nan
        return out

    def support(self, rate: float) -> float:
        """Seconds to the farther of the two samples that a value comes from.

        Args:
            rate: Rate in Hz of what goes in.

        Returns:
            The longest gap, or one period of `rate` where every gap is bridged: a value inside a
            longer gap then rests on samples that are farther.

        Examples:
            >>> Interpolate(1000.0, longest_gap=0.5).support(100.0)
            0.5
        """
        return 1 / rate if self.longest_gap is None else self.longest_gap

    def output_rate(self, rate: float) -> float:
        """The rate of the clock.

        Args:
            rate: Rate in Hz of what goes in, which does not matter.

        Returns:
            The rate of the clock in Hz.
        """
        del rate  # the clock is the same whatever comes in
        return self.rate
