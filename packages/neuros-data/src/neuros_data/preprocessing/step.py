"""A step of preparation: a frozen dataclass that is applied, says how far it reaches, and is saved.

Every step keeps what was not measured as it is: NaN in, NaN and `valid=False` out. No step spreads
a NaN over what was measured, and none puts a zero in its place.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, Protocol, runtime_checkable

from neuros_core import Signal

__all__ = ["Step", "apply_steps", "describe_steps", "support_seconds"]


@runtime_checkable
class Step(Protocol):
    """What `apply_steps` runs: settings that can be applied to a signal.

    Examples:
        >>> from neuros_data.preprocessing import AverageReference
        >>> isinstance(AverageReference(), Step)
        True
    """

    def apply(self, signal: Signal) -> Signal:
        """The signal after the step."""

    def support(self, rate: float) -> float:
        """Seconds to either side beyond which a sample has no influence (less than 1e-3)."""

    def output_rate(self, rate: float) -> float:
        """Rate in Hz of what comes out when `rate` goes in."""


def apply_steps(signal: Signal, steps: Sequence[Step]) -> Signal:
    """Apply steps one after the other.

    Args:
        signal: What goes into the first.
        steps: The steps, in order.

    Returns:
        What comes out of the last.

    Examples:
        >>> import numpy as np
        >>> from neuros_data.preprocessing import AverageReference
        >>> eeg = Signal(np.array([[1.0, 3.0]]), rate=1.0)
        >>> apply_steps(eeg, [AverageReference()]).data.tolist()
        [[-1.0, 1.0]]
    """
    for step in steps:
        signal = step.apply(signal)
    return signal


def support_seconds(steps: Sequence[Step], rate: float) -> float:
    r"""Seconds to either side over which a sample depends on others after all steps.

    $\sum_i s_i$: a filter after a filter reaches through it. This is what `make_split` takes as
    `support`; its guard leaves twice that between two parts of a recording.

    Args:
        steps: The steps, in order.
        rate: Rate in Hz of what goes into the first.

    Returns:
        Seconds; infinite when a step fits something to the whole recording.

    Examples:
        >>> from neuros_data.preprocessing import Bandpass, Resample
        >>> round(support_seconds([Bandpass(0.5, 40.0), Resample(100.0)], 250.0), 3)
        3.565
    """
    total = 0.0
    for step in steps:
        total += step.support(rate)
        rate = step.output_rate(rate)
    return total


def describe_steps(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Steps as JSON can hold them, for a manifest.

    Args:
        steps: The steps, frozen dataclasses.

    Returns:
        One dictionary a step: its name under `"step"` and its settings.

    Raises:
        TypeError: When a step is no dataclass.

    Examples:
        >>> from neuros_data.preprocessing import Notch
        >>> describe_steps([Notch(50.0)])[0]["frequency"]
        50.0
    """
    return [_describe(step) for step in steps]


def _describe(step: object) -> dict[str, Any]:
    if not is_dataclass(step) or isinstance(step, type):
        raise TypeError(f"a step needs to be a dataclass object, got {type(step).__name__}")
    return {"step": type(step).__name__, **asdict(step)}


def check_positive(name: str, value: float) -> None:
    """Raise unless a setting is a positive finite number."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} needs a positive number, got {value}")
