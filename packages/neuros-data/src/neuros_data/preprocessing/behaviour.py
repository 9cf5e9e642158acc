"""Movement from position."""

from dataclasses import dataclass, replace

import numpy as np

from neuros_core import Signal
from neuros_data.preprocessing._marks import remarked, unmarked
from neuros_data.preprocessing.filters import Bandpass
from neuros_data.preprocessing.resample import Interpolate, Resample
from neuros_data.preprocessing.step import check_positive

__all__ = ["WheelVelocity"]


@dataclass(frozen=True)
class WheelVelocity:
    """Velocity of a wheel from its position, which is written when it moves.

    The position is interpolated to `inner_rate`, low-passed by a Butterworth filter that runs
    forwards and backwards, differentiated by central differences, and brought to `rate`. Not
    causal: the filter looks ahead.

    Args:
        rate: Rate of the velocity in Hz.
        cutoff: Corner of the filter in Hz.
        order: Order of the filter in one direction.
        inner_rate: Rate in Hz at which position is filtered and differentiated.

    Raises:
        ValueError: When a number is not positive, or the corner not below both Nyquist frequencies.

    Examples:
        >>> t = np.arange(0, 4, 0.002)
        >>> wheel = Signal(3 * t[:, None], times=t, unit="rad", channels=("position",))
        >>> velocity = WheelVelocity().apply(wheel)
        >>> velocity.unit, velocity.rate, round(float(velocity.data[100, 0]), 3)
        ('rad/s', 50.0, 3.0)
    """

    rate: float = 50.0
    cutoff: float = 20.0
    order: int = 8
    inner_rate: float = 1000.0

    def __post_init__(self) -> None:
        for name in ("rate", "cutoff", "inner_rate"):
            check_positive(name, getattr(self, name))
        if self.cutoff >= min(self.rate, self.inner_rate) / 2:
            raise ValueError(
                f"cutoff needs to be below the Nyquist frequencies of rate ({self.rate / 2} Hz) "
                f"and inner_rate ({self.inner_rate / 2} Hz), got {self.cutoff} Hz"
            )

    @property
    def _steps(self) -> tuple[Interpolate, Bandpass, Resample]:
        low_pass = Bandpass(high=self.cutoff, kind="iir", order=self.order)
        return Interpolate(self.inner_rate), low_pass, Resample(self.rate)

    def apply(self, signal: Signal) -> Signal:
        """Differentiate every channel.

        Args:
            signal: Position, on any clock.

        Returns:
            Velocity in the position's unit per second; channels keep their names.

        Raises:
            ValueError: When the signal is shorter than one period of the corner.
        """
        interpolate, low_pass, resample = self._steps
        smooth = low_pass.apply(interpolate.apply(signal))
        velocity = np.gradient(unmarked(smooth), axis=0) * self.inner_rate
        found = resample.apply(remarked(smooth, velocity))
        return replace(found, unit=f"{signal.unit}/s")

    def support(self, rate: float) -> float:
        """Seconds to either side beyond which a sample has no influence.

        Args:
            rate: Rate in Hz of the position, roughly where it is irregular.

        Returns:
            The sum over interpolation, filter, difference and resampling.

        Examples:
            >>> 0.1 < WheelVelocity().support(100.0) < 1.0
            True
        """
        interpolate, low_pass, resample = self._steps
        inner = self.inner_rate
        reach = low_pass.support(inner) + 1 / inner + resample.support(inner)
        return interpolate.support(rate) + reach

    def output_rate(self, rate: float) -> float:
        """The rate of the velocity.

        Args:
            rate: Rate in Hz of the position, which does not matter.

        Returns:
            The rate of the velocity in Hz.
        """
        del rate  # the velocity has its own rate
        return self.rate
