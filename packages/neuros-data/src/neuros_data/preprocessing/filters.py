r"""Band-pass and notch filters, causal or without a phase shift.

A filter runs over every stretch of measured samples by itself: a NaN stays where it is. At the
ends of a stretch a zero-phase filter continues the signal by its odd reflection, a causal one
holds its first sample. A stretch shorter than one period of the lowest corner says nothing about
the band and becomes invalid.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuros_core import Signal
from neuros_core.errors import check_choice
from neuros_data.preprocessing._marks import by_stretch, regular_rate, remarked, unmarked
from neuros_data.preprocessing._response import (
    design_butterworth,
    design_fir,
    iir_reach,
    run_fir,
    run_iir,
)
from neuros_data.preprocessing.step import check_positive

__all__ = ["Bandpass", "Notch"]


@dataclass(frozen=True)
class Bandpass:
    r"""Keep the frequencies between two corners.

    `kind="fir"`: windowed sinc (Hamming) with transitions of $\min(\max(f/4, 2), f)$ Hz, and of no
    more than what is left to the Nyquist frequency; its length is 3.3 over the narrower one.
    `kind="iir"`: Butterworth of `order` as second-order sections.

    Args:
        low: Lower corner in Hz; None keeps everything below `high`.
        high: Upper corner in Hz; None keeps everything above `low`.
        kind: `"fir"` or `"iir"`.
        phase: `"zero"` looks ahead as far as back (an IIR runs forwards and backwards, which
            doubles its order); `"causal"` reads no later sample. A causal FIR comes half its
            length late.
        order: Order of the Butterworth filter; an FIR has none.

    Raises:
        ValueError: When there is no corner, or one is not positive, or they are in the wrong order.

    Examples:
        >>> t = np.arange(2000) / 200
        >>> tone = Signal(np.sin(2 * np.pi * 10 * t)[:, None] + 5, rate=200.0)
        >>> kept = Bandpass(1.0, 40.0).apply(tone)
        >>> bool(np.abs(kept.data - tone.data + 5)[600:-600].max() < 5e-3)
        True

    References:
        Widmann, Schröger and Maess (2015), Digital filter design for electrophysiological data,
        J. Neurosci. Methods 250, 34, doi:10.1016/j.jneumeth.2014.08.002.
    """

    low: float | None = None
    high: float | None = None
    kind: Literal["fir", "iir"] = "fir"
    phase: Literal["zero", "causal"] = "zero"
    order: int = 4

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("fir", "iir"))
        check_choice("phase", self.phase, ("zero", "causal"))
        if not self._corners:
            raise ValueError("a band needs a low or a high corner, got neither")
        for name, corner in (("low", self.low), ("high", self.high)):
            if corner is not None:
                check_positive(name, corner)
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"a band needs low < high, got {self.low} and {self.high} Hz")
        if self.order < 1:
            raise ValueError(f"order needs 1 or more, got {self.order}")

    @property
    def _corners(self) -> list[float]:
        return [corner for corner in (self.low, self.high) if corner is not None]

    def coefficients(self, rate: float) -> NDArray[np.float64]:
        """The filter for one rate.

        Args:
            rate: Rate in Hz.

        Returns:
            Impulse response of an FIR, shape (tap,), or second-order sections of an IIR, shape
            (section, 6).

        Raises:
            ValueError: When a corner is not below the Nyquist frequency.

        Examples:
            >>> Bandpass(high=40.0, kind="iir").coefficients(200.0).shape
            (2, 6)
        """
        nyquist = rate / 2
        if max(self._corners) >= nyquist:
            raise ValueError(
                f"a band needs corners below the Nyquist frequency {nyquist} Hz, got "
                f"{max(self._corners)} Hz; lower it, or leave `high` out"
            )
        if self.kind == "fir":
            return design_fir(self.low, self.high, rate)
        return design_butterworth(self.low, self.high, self.order, rate)

    def apply(self, signal: Signal) -> Signal:
        """Filter every channel.

        Args:
            signal: On a regular clock.

        Returns:
            The same shape in float64.

        Raises:
            ValueError: When the clock is irregular, a corner too high, or the signal shorter than
                one period of the lowest corner.
        """
        rate = regular_rate(signal, "a filter")
        shortest = int(np.ceil(rate / self._corners[0]))
        _check_length(signal, shortest, rate)
        c, causal = self.coefficients(rate), self.phase == "causal"
        run = run_fir if self.kind == "fir" else run_iir
        return remarked(
            signal, by_stretch(unmarked(signal), shortest, lambda x: run(c, x, causal=causal))
        )

    def support(self, rate: float) -> float:
        """Seconds to either side beyond which a sample has no influence.

        Args:
            rate: Rate in Hz.

        Returns:
            Half the length of a zero-phase FIR, all of a causal one; of an IIR the time until its
            response is below 1e-3 of the largest, and what is left of it below 1e-3 of the whole.

        Examples:
            >>> Bandpass(0.5, 40.0).support(160.0)
            3.3
        """
        c, causal = self.coefficients(rate), self.phase == "causal"
        if self.kind == "fir":
            return (len(c) - 1 if causal else len(c) // 2) / rate
        return iir_reach(c, causal=causal) / rate

    def output_rate(self, rate: float) -> float:
        """The rate is not changed.

        Args:
            rate: Rate in Hz.

        Returns:
            The same.
        """
        return rate


@dataclass(frozen=True)
class Notch:
    """Take out one frequency, such as that of the mains, and its multiples.

    Args:
        frequency: Centre in Hz.
        width: Width in Hz at -3 dB, of one pass.
        harmonics: How many multiples, the first included; those above the Nyquist frequency are
            left out.
        phase: `"zero"` runs forwards and backwards, `"causal"` forwards only.

    Raises:
        ValueError: When a number is not positive, or the notch is wider than its frequency.

    Examples:
        >>> hum = Signal(np.sin(2 * np.pi * 60 * np.arange(1600) / 160)[:, None], rate=160.0)
        >>> bool(np.abs(Notch(60.0).apply(hum).data[400:-400]).max() < 1e-3)
        True
    """

    frequency: float = 60.0
    width: float = 2.0
    harmonics: int = 1
    phase: Literal["zero", "causal"] = "zero"

    def __post_init__(self) -> None:
        check_choice("phase", self.phase, ("zero", "causal"))
        check_positive("frequency", self.frequency)
        check_positive("width", self.width)
        if self.width >= self.frequency:
            raise ValueError(f"width needs to be below {self.frequency} Hz, got {self.width} Hz")
        if self.harmonics < 1:
            raise ValueError(f"harmonics needs 1 or more, got {self.harmonics}")

    def coefficients(self, rate: float) -> NDArray[np.float64]:
        """One second-order section for each multiple below the Nyquist frequency.

        Args:
            rate: Rate in Hz.

        Returns:
            Second-order sections, shape (section, 6).

        Raises:
            ValueError: When the frequency itself is not below the Nyquist frequency.

        Examples:
            >>> Notch(60.0, harmonics=3).coefficients(400.0).shape
            (3, 6)
        """
        from scipy.signal import iirnotch

        if self.frequency >= rate / 2:
            raise ValueError(
                f"a notch at {self.frequency} Hz needs a rate above {2 * self.frequency} Hz, got "
                f"{rate} Hz; leave the step out"
            )
        centres = [f for k in range(self.harmonics) if (f := (k + 1) * self.frequency) < rate / 2]
        sections = [np.concatenate(iirnotch(f, f / self.width, fs=rate)) for f in centres]
        return np.stack(sections)

    def apply(self, signal: Signal) -> Signal:
        """Filter every channel.

        Args:
            signal: On a regular clock.

        Returns:
            The same shape in float64.

        Raises:
            ValueError: When the clock is irregular, the frequency too high, or the signal shorter
                than one period.
        """
        rate = regular_rate(signal, "a notch")
        sos, causal = self.coefficients(rate), self.phase == "causal"
        shortest = int(np.ceil(rate / self.frequency))
        _check_length(signal, shortest, rate)
        data = by_stretch(unmarked(signal), shortest, lambda x: run_iir(sos, x, causal=causal))
        return remarked(signal, data)

    def support(self, rate: float) -> float:
        """Seconds to either side beyond which a sample has no influence.

        Args:
            rate: Rate in Hz.

        Returns:
            The time until the response is below 1e-3 of the largest, and what is left of it below
            1e-3 of the whole.

        Examples:
            >>> 0.5 < Notch(60.0).support(160.0) < 2.0
            True
        """
        return iir_reach(self.coefficients(rate), causal=self.phase == "causal") / rate

    def output_rate(self, rate: float) -> float:
        """The rate is not changed.

        Args:
            rate: Rate in Hz.

        Returns:
            The same.
        """
        return rate


def _check_length(signal: Signal, shortest: int, rate: float) -> None:
    if len(signal.data) < shortest:
        raise ValueError(
            f"the lowest corner needs one period, {shortest / rate:.4g} s, got a signal of "
            f"{len(signal.data) / rate:.4g} s"
        )
