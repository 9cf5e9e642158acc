"""The first seconds of every kind of signal, its spectrum, and a raster of spikes, as SVG."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from neuros_core import Events, Signal
from neuros_data._card_page import Section
from neuros_data.store import Store

_SECONDS = 5.0
_TRACES, _UNITS = 6, 30
_POINTS = 600
_WIDTH, _HEIGHT = 640, 220
_LEFT, _BOTTOM = 46, 30


def thumbnails(store: Store) -> Iterator[Section]:
    """One example of every modality: the first recording that has it."""
    figures: list[tuple[str, str]] = []
    seen: set[str] = set()
    for name in store.files.ids:
        for modality, part in store.recordings[name].modalities.items():
            if str(modality) in seen:
                continue
            seen.add(str(modality))
            if isinstance(part, Events):
                figures.append((f"{modality}, {name}: spikes", _raster(part)))
            elif isinstance(part, Signal) and len(part.data) > 2:
                figures += _signal(f"{modality}, {name}", part)
    if figures:
        yield Section("Examples", figures=tuple(figures))


def _signal(what: str, signal: Signal) -> Iterator[tuple[str, str]]:
    # A slow signal shows nothing in five seconds.
    if signal.times is not None:
        clock = np.asarray(signal.times)
        n = len(clock)
        times = clock[: min(n, _POINTS)]
    else:
        rate = float(signal.rate or 1.0)
        n = len(signal.data)
        shown = min(n, max(round(_SECONDS * rate), 300))
        times = signal.start + np.arange(shown) / rate
    x = np.nan_to_num(np.asarray(signal.data[: len(times), :_TRACES], np.float64))
    more = len(signal.channels) - x.shape[1]
    note = f" ({more} more channels)" if more > 0 else ""
    yield f"{what}: first {times[-1] - times[0]:.3g} s{note}", _traces(times, x)
    if signal.rate is not None:
        yield f"{what}: power spectral density, mean over channels", _spectrum(signal)


def _traces(times: NDArray[np.float64], x: NDArray[np.float64]) -> str:
    step = max(1, len(times) // _POINTS)
    times, x = times[::step], x[::step]
    spread = x.std(axis=0)
    # Every trace has the same height: what is shown is form, not amplitude.
    z = (x - x.mean(axis=0)) / np.where(spread > 0, 4 * spread, 1.0)
    lines = [(times, np.clip(z[:, k], -1, 1) * 0.5 - k) for k in range(z.shape[1])]
    limits = (float(times[0]), float(times[-1]), -z.shape[1] + 0.4, 0.6)
    return _drawing(lines, limits, "time (s)", "channels", ticks=False)


def _spectrum(signal: Signal) -> str:
    # scipy.signal takes longer to import than everything else here.
    from scipy.signal import welch

    rate = float(signal.rate or 1.0)
    n = min(len(signal.data), 200_000)
    x = np.nan_to_num(np.asarray(signal.data[:n, :32], np.float64))
    freqs, density = welch(x, fs=rate, nperseg=min(n, 1024), axis=0)
    mean = density[1:].mean(axis=1)
    kept = mean > 0
    if not kept.any():
        return _drawing([], (0.0, 1.0, 0.0, 1.0), "frequency (Hz)", "constant", ticks=True)
    log = np.log10(mean[kept])
    limits = (0.0, rate / 2, float(log.min()) - 0.1, float(log.max()) + 0.1)
    unit = "log10 of power per Hz"
    return _drawing([(freqs[1:][kept], log)], limits, "frequency (Hz)", unit, ticks=True)


def _raster(events: Events) -> str:
    stop = min(_SECONDS, float(events.duration or 0.0)) or 1.0
    times, units = np.asarray(events.times), np.asarray(events.unit_ids)
    kept = (times < stop) & (units < _UNITS)
    n_units = min(events.n_units, _UNITS)
    marks = "".join(
        f"M{_x(t, 0.0, stop):.1f} {_y(u + 0.85, 0.0, n_units):.1f}V{_y(u + 0.15, 0.0, n_units):.1f}"
        for t, u in zip(times[kept].tolist(), units[kept].tolist(), strict=True)
    )
    body = f"<path d='{marks}' stroke='#222' fill='none'/>" if marks else ""
    return _frame(body, (0.0, stop, 0.0, float(n_units)), "time (s)", "units", ticks=True)


Line = tuple[NDArray[np.float64], NDArray[np.float64]]
Limits = tuple[float, float, float, float]


def _x(value: float, low: float, high: float) -> float:
    return _LEFT + (value - low) / ((high - low) or 1.0) * (_WIDTH - _LEFT - 10)


def _y(value: float, low: float, high: float) -> float:
    return 10 + (high - value) / ((high - low) or 1.0) * (_HEIGHT - _BOTTOM - 10)


def _drawing(lines: Sequence[Line], limits: Limits, x: str, y: str, *, ticks: bool) -> str:
    a, b, c, d = limits
    paths = []
    for times, values in lines:
        points = " ".join(
            f"{_x(t, a, b):.1f},{_y(v, c, d):.1f}"
            for t, v in zip(times.tolist(), values.tolist(), strict=True)
        )
        paths.append(f"<polyline points='{points}' fill='none' stroke='#2a6f97'/>")
    return _frame("".join(paths), limits, x, y, ticks=ticks)


def _frame(body: str, limits: Limits, x: str, y: str, *, ticks: bool) -> str:
    a, b, c, d = limits
    bottom = _HEIGHT - _BOTTOM
    labels = [
        f"<text x='{_LEFT}' y='{bottom + 16}'>{a:.3g}</text>",
        f"<text x='{_WIDTH - 10}' y='{bottom + 16}' text-anchor='end'>{b:.4g}</text>",
        f"<text x='{(_LEFT + _WIDTH) / 2}' y='{bottom + 16}' text-anchor='middle'>{x}</text>",
        f"<text transform='translate(12,{bottom / 2}) rotate(-90)' text-anchor='middle'>{y}</text>",
    ]
    if ticks:
        labels += [
            f"<text x='{_LEFT - 4}' y='{bottom}' text-anchor='end'>{c:.2g}</text>",
            f"<text x='{_LEFT - 4}' y='20' text-anchor='end'>{d:.2g}</text>",
        ]
    return (
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' xmlns='http://www.w3.org/2000/svg'>"
        f"<path d='M{_LEFT} 10V{bottom}H{_WIDTH - 10}' fill='none' stroke='#888'/>"
        f"{body}{''.join(labels)}</svg>"
    )
