"""Checks of the options that spectral estimators and objectives share."""

import math
from typing import Any, get_args

from neuros_mechint.fractals._psd import Band

__all__ = [
    "check_choice",
    "check_hole",
    "check_range",
    "check_rate",
    "default_range",
    "require_bins",
]

_MIN_BINS = 8


def check_choice(name: str, value: str, allowed: Any) -> None:
    """Refuse an option that is not one of a `Literal`'s values.

    Args:
        name: the option.
        value: what was given.
        allowed: the `Literal`.

    Raises:
        ValueError: if it is not.

    Examples:
        >>> from typing import Literal
        >>> check_choice("fit", "ols", Literal["ols", "robust"])
    """
    choices = get_args(allowed)
    if value not in choices:
        names = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {names}, got {value!r}")


def check_rate(fs: float) -> None:
    """Refuse a sampling rate that is not positive and finite.

    Args:
        fs: sampling rate in Hz.

    Raises:
        ValueError: if it is not.

    Examples:
        >>> check_rate(250.0)
    """
    if not (fs > 0 and math.isfinite(fs)):
        raise ValueError(f"fs must be a positive rate in Hz, got {fs}")


def check_range(freq_range: tuple[float, float], fs: float) -> None:
    """Refuse a frequency range that is empty or not within (0, fs / 2].

    Args:
        freq_range: lowest and highest frequency in Hz.
        fs: sampling rate in Hz.

    Raises:
        ValueError: if it is.

    Examples:
        >>> check_range((1.0, 50.0), 100.0)
    """
    low, high = freq_range
    if not 0 < low < high <= fs / 2 * (1 + 1e-9):
        raise ValueError(
            f"freq_range must satisfy 0 < low < high <= fs / 2 = {fs / 2:g} Hz, "
            f"got ({low:g}, {high:g}); zero frequency never enters a fit"
        )


def check_hole(hole: tuple[float, float]) -> None:
    """Refuse an excluded band whose ends are not in order.

    Args:
        hole: lowest and highest frequency in Hz.

    Raises:
        ValueError: if they are not.

    Examples:
        >>> check_hole((48.0, 52.0))
    """
    low, high = hole
    if not 0 <= low <= high:
        raise ValueError(f"exclude needs bands (low, high) with 0 <= low <= high, got {hole}")


def require_bins(band: Band, n: int, fs: float, freq_range: tuple[float, float] | None) -> None:
    """Refuse a band with too few frequencies for a fit.

    Args:
        band: the bins.
        n: samples of a signal.
        fs: sampling rate in Hz.
        freq_range: the range in Hz that was asked for; None is the default one.

    Raises:
        ValueError: if it has fewer than 8.

    Examples:
        >>> from neuros_mechint.fractals._psd import select_band
        >>> require_bins(select_band(100, 1.0, (0.1, 0.4)), 100, 1.0, (0.1, 0.4))
    """
    if len(band.bins) >= _MIN_BINS:
        return
    low, high = freq_range or default_range(n, fs)
    # The default range holds the bins 4 to 0.4 n; one bin more covers ends that fall between bins.
    needed = 28 if freq_range is None else math.ceil((_MIN_BINS + 1) * fs / (high - low))
    raise ValueError(
        f"the fit needs at least {_MIN_BINS} frequencies, got {len(band.bins)} between "
        f"{low:g} and {high:g} Hz from {n} samples; widen freq_range or pass a longer signal "
        f"(about {needed} samples, or segments of that length)"
    )


def default_range(n: int, fs: float) -> tuple[float, float]:
    """Frequencies that a fit uses by default: past the tapers' bandwidth, short of the ends.

    Args:
        n: samples of a signal.
        fs: sampling rate in Hz.

    Returns:
        Lowest and highest frequency in Hz.

    Examples:
        >>> default_range(1000, 1000.0)
        (4.0, 400.0)
    """
    return 4 * fs / max(n, 1), 0.4 * fs
