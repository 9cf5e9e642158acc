"""Time stamps into a clock: a rate where they are regular, the times where they are not."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_TOLERANCE = 0.01  # of a step


class Clock(NamedTuple):
    """Either `rate` and `start`, or `times`; `keep` are the samples that have a place on it."""

    rate: float | None
    times: NDArray[np.float64] | None
    start: float
    keep: NDArray[np.int64] | None
    notes: tuple[str, ...]


def settle_clock(times: NDArray[Any], name: str, *, repair: bool = False) -> Clock:
    """Turn time stamps into a clock.

    The clock is regular when every step is within 1 % of the mean step and no sample is half a
    step or more from where the rate puts it. Equal time stamps are kept and counted.

    Args:
        times: Seconds, shape (time,).
        name: What is on the clock, for messages.
        repair: Leave out samples without a finite time, sort the others and keep the first of
            those with equal time stamps.

    Raises:
        ValueError: When a time stamp is not finite or goes back, and `repair` is False.
    """
    t = np.asarray(times, dtype=np.float64).ravel()
    keep, notes = _repaired(t, name) if repair else (None, _checked(t, name))
    t = t if keep is None else t[keep]
    rate = _rate(t)
    if rate is not None:
        return Clock(rate, None, float(t[0]), keep, tuple(notes))
    if len(t) > 1:
        gap = int(np.diff(t).argmax())
        notes.append(
            f"{name}: the clock is irregular, its times are kept; the largest gap is "
            f"{t[gap + 1] - t[gap]:.4g} s, after {t[gap] - t[0]:.4g} s"
        )
    return Clock(None, t, 0.0, keep, tuple(notes))


def _checked(t: NDArray[np.float64], name: str) -> list[str]:
    bad = ~np.isfinite(t)
    if bad.any():
        raise ValueError(
            f"{name} needs a finite time for each sample, got {int(bad.sum())} without, the first "
            f"at index {int(bad.argmax())}; repair=True leaves those samples out"
        )
    steps = np.diff(t)
    if (steps < 0).any():
        i = int((steps < 0).argmax())
        raise ValueError(
            f"{name} needs time stamps in order, got {t[i + 1]} after {t[i]} at index {i + 1}; "
            "repair=True sorts them and keeps the first of equal ones"
        )
    same = int((steps == 0).sum())
    return [f"{name}: {same} samples have the time stamp of the one before"] * bool(same)


def _repaired(t: NDArray[np.float64], name: str) -> tuple[NDArray[np.int64] | None, list[str]]:
    timed = np.flatnonzero(np.isfinite(t))
    order = timed[np.argsort(t[timed], kind="stable")]
    first = np.ones(len(order), dtype=bool)
    first[1:] = np.diff(t[order]) > 0
    keep = order[first]
    if len(keep) == len(t) and (np.diff(keep) > 0).all():
        return None, []
    moved = int((np.diff(t[timed]) < 0).sum())
    note = (
        f"{name}: repaired time stamps: {len(t) - len(timed)} not finite and "
        f"{len(timed) - len(keep)} repeated left out, {moved} out of order sorted"
    )
    return keep, [note]


def _rate(t: NDArray[np.float64]) -> float | None:
    if len(t) < 2 or t[-1] <= t[0]:
        return None
    step = (t[-1] - t[0]) / (len(t) - 1)
    jitter = np.abs(np.diff(t) - step).max() / step
    drift = np.abs(t - t[0] - np.arange(len(t)) * step).max() / step
    # Time stamps are written with some 1e-9 s of rounding, which a rate need not repeat.
    return round(1 / float(step), 6) if jitter <= _TOLERANCE and drift < 0.5 else None
