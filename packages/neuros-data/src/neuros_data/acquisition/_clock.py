"""Time stamps into a clock: a rate where they are regular, the times where they are not."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Intervals, Signal

_TOLERANCE = 0.01  # of a step


def put_on_clock(
    times: NDArray[Any],
    data: NDArray[Any],
    *,
    name: str,
    unit: str,
    channels: Sequence[str],
    regular: bool = True,
) -> tuple[Signal | None, tuple[str, ...]]:
    """Make a signal from samples and their time stamps.

    Samples without a finite time are left out. The clock is regular when every step is within 1 %
    of the mean step and no sample is half a step or more from where the rate puts it.

    Args:
        times: Seconds, shape (time,).
        data: Samples, shape (time, channel) or (time,).
        name: What it is, for the notes.
        unit: SI unit or `"a.u."`.
        channels: One name per channel.
        regular: Whether a rate is to be looked for; False keeps the times without a note.

    Returns:
        The signal, None when its samples and times do not belong together, and what the user
        should know about it.

    Examples:
        >>> signal, notes = put_on_clock(
        ...     np.arange(5) / 4, np.zeros(5), name="x", unit="V", channels=["x"]
        ... )
        >>> signal.rate, notes
        (4.0, ())
    """
    t = np.asarray(times, dtype=np.float64).ravel()
    x = np.asarray(data)
    x = x[:, None] if x.ndim == 1 else x
    if len(t) != len(x):
        return None, (f"{name}: {len(x)} samples but {len(t)} times; left out",)
    timed = np.isfinite(t)
    t, x = t[timed], x[timed]
    notes = [f"{name}: {(~timed).sum()} samples without a time; left out"] * int(not timed.all())
    if len(t) < 2 or (np.diff(t) < 0).any():
        return None, (*notes, f"{name}: times need two samples or more in order; left out")
    if not regular:
        return Signal(x, times=t, unit=unit, channels=tuple(channels)), tuple(notes)
    rate = _rate(t)
    if rate is not None:
        signal = Signal(x, rate=rate, unit=unit, channels=tuple(channels), start=float(t[0]))
        return signal, tuple(notes)
    gap = int(np.diff(t).argmax())
    notes.append(
        f"{name}: the clock is irregular, times are kept; the largest gap is "
        f"{t[gap + 1] - t[gap]:.4g} s at {t[gap]:.4g} s"
    )
    return Signal(x, times=t, unit=unit, channels=tuple(channels)), tuple(notes)


def _rate(t: NDArray[np.float64]) -> float | None:
    step = float(t[-1] - t[0]) / (len(t) - 1)
    if step <= 0:
        return None
    jitter = np.abs(np.diff(t) - step).max() / step
    drift = np.abs(t - t[0] - np.arange(len(t)) * step).max() / step
    # Time stamps are written with some 1e-9 s of rounding, which a rate need not repeat.
    return round(1 / step, 6) if jitter <= _TOLERANCE and drift < 0.5 else None


def last_second(parts: Iterable[Signal | Intervals]) -> float:
    """End of the latest part in seconds; 0 without parts."""
    return max((_end(part) for part in parts), default=0.0)


def _end(part: Signal | Intervals) -> float:
    if isinstance(part, Intervals):
        return float(part.end.max(initial=0.0))
    return float(part.times[-1]) if part.times is not None else part.start + part.duration
