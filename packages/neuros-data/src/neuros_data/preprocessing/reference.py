"""What electrodes are measured against."""

from dataclasses import dataclass

import numpy as np

from neuros_core import Signal
from neuros_core.errors import check_choice
from neuros_data.preprocessing._marks import remarked, unmarked

__all__ = ["AverageReference"]


@dataclass(frozen=True)
class AverageReference:
    """Subtract the mean over channels at every sample.

    The mean is over the channels that were measured at that sample; one channel alone has no
    reference, and becomes invalid there.

    Args:
        exclude: Channels that are left out of the mean (and referenced all the same), such as
            those of the eyes.

    Examples:
        >>> eeg = Signal(np.array([[1.0, 3.0, np.nan]]), rate=1.0, channels=("a", "b", "c"))
        >>> AverageReference().apply(eeg).data.tolist()
        [[-1.0, 1.0, nan]]
    """

    exclude: tuple[str, ...] = ()

    def apply(self, signal: Signal) -> Signal:
        """Reference every channel.

        Args:
            signal: On any clock.

        Returns:
            The same shape in float64.

        Raises:
            ValueError: When an excluded channel is not in the signal.
        """
        for name in self.exclude:
            check_choice("exclude", name, tuple(signal.channels))
        data = unmarked(signal)
        chosen = data[:, [name not in self.exclude for name in signal.channels]]
        known = ~np.isnan(chosen)
        count = known.sum(axis=1, keepdims=True)
        total = np.where(known, chosen, 0.0).sum(axis=1, keepdims=True)
        mean = np.full(total.shape, np.nan)
        np.divide(total, count, out=mean, where=count >= 2)
        return remarked(signal, data - mean)

    def support(self, rate: float) -> float:
        """No other sample in time has an influence.

        Args:
            rate: Rate in Hz, which does not matter.

        Returns:
            0 seconds.
        """
        del rate  # a sample depends on others of the same instant only
        return 0.0

    def output_rate(self, rate: float) -> float:
        """The rate is not changed.

        Args:
            rate: Rate in Hz.

        Returns:
            The same.
        """
        return rate
