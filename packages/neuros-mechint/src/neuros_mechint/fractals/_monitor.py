"""Watch the fractal dimension of a stream as it arrives."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.fractals._conventions import (
    ArrayT,
    Signals,
    deliver,
    read_signals,
    require_finite,
)
from neuros_mechint.fractals._sliding_higuchi import SlidingHiguchi

__all__ = ["MonitorAlert", "MonitorState", "RealtimeMonitor", "monitor_stream"]

_LOG = logging.getLogger(__name__)
_OPTIONS = ("window", "k_max", "low", "high", "hysteresis", "channels")
_SUMS = ("samples", "all", "first", "largest", "pending")


class MonitorState(NamedTuple):
    """What a monitor says after each sample; NumPy arrays where the samples were.

    Attributes:
        fd: dimension of the last `window` samples, of the shape of the samples; nan before that
            many are in, and where the window is constant or repeats within `k_max` samples.
        alert: True from where the dimension leaves its range until it is well inside again.
    """

    fd: Tensor | NDArray[Any]
    alert: Tensor | NDArray[Any]


class MonitorAlert(NamedTuple):
    """Begin or end of an alert.

    Attributes:
        channel: which channel.
        sample: number of the sample that decided it, counted from 0 since the stream began.
        fd: the dimension there.
        active: True at the begin, False at the end.
    """

    channel: int
    sample: int
    fd: float
    active: bool


class RealtimeMonitor:
    r"""Higuchi dimension of the last samples of a stream, and alerts when it leaves a range.

    Each value equals `HiguchiFractalDimension(k_max=k_max)` on the last `window` samples, at a
    cost of $O(k_{\max})$ a sample whatever the window. Sums are kept in double precision and taken
    anew every `window` samples, so that no error grows with the stream. How the stream is cut into
    chunks does not matter, apart from speed: a call costs about as much for 30 samples as for one.

    An alert begins when the dimension falls below `low` or rises above `high`, and ends when it is
    inside by `hysteresis`, so that a value near a threshold does not ring. A window without a
    dimension changes nothing. Each begin is logged as a warning and each end as information, and
    both are passed to `on_alert`.

    Args:
        window: samples of the window, at least `2 * k_max + 1`.
        k_max: largest lag, at least 2.
        low: dimension below which an alert begins; None for none.
        high: dimension above which an alert begins; None for none.
        hysteresis: how far inside the range an alert ends, at least 0.
        channels: number of channels.
        on_alert: called with a `MonitorAlert` at each begin and end, in the order of time.

    Raises:
        ValueError: if an option is out of range, or the range has no inside.

    Examples:
        >>> noise = torch.randn(1500, generator=torch.Generator().manual_seed(0))
        >>> ramp = torch.linspace(0.0, 100.0, 1500)
        >>> monitor = RealtimeMonitor(window=500, low=1.2)
        >>> bool(monitor.update(noise).alert.any())
        False
        >>> state = monitor.update(ramp)
        >>> round(state.fd[-1].item(), 3), state.alert[-1].item()
        (1.0, True)

    References:
        Higuchi (1988). Approach to an irregular time series on the basis of the fractal theory.
        Physica D 31. https://doi.org/10.1016/0167-2789(88)90081-4
    """

    def __init__(
        self,
        *,
        window: int = 1000,
        k_max: int = 10,
        low: float | None = 1.2,
        high: float | None = None,
        hysteresis: float = 0.05,
        channels: int = 1,
        on_alert: Callable[[MonitorAlert], object] | None = None,
    ) -> None:
        if k_max < 2:
            raise ValueError(f"k_max must be at least 2 to fit a line, got {k_max}")
        if window < 2 * k_max + 1:
            raise ValueError(
                f"window must be at least 2 * k_max + 1 = {2 * k_max + 1} samples, got {window}; "
                f"lower k_max or watch a longer window"
            )
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        _check_range(low, high, hysteresis)
        self.window = window
        self.k_max = k_max
        self.low = low
        self.high = high
        self.hysteresis = hysteresis
        self.channels = channels
        self.on_alert = on_alert
        self.reset()

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in _OPTIONS)
        return f"RealtimeMonitor({options})"

    @property
    def n_samples(self) -> int:
        """Number of samples of each channel since the stream began.

        Examples:
            >>> RealtimeMonitor().n_samples
            0
        """
        return self._sliding.count

    def reset(self) -> None:
        """Forget the stream: the next sample is the first.

        Examples:
            >>> monitor = RealtimeMonitor()
            >>> _ = monitor.update(torch.zeros(5))
            >>> monitor.reset()
            >>> monitor.n_samples
            0
        """
        self._sliding = SlidingHiguchi(window=self.window, k_max=self.k_max, channels=self.channels)
        self._active = np.zeros(self.channels, dtype=bool)

    def update(self, chunk: ArrayT) -> MonitorState:
        """Take the next samples.

        Args:
            chunk: `(channels, time)`, or `(time,)` where there is one channel; any unit, finite.
                A gradient does not pass.

        Returns:
            Dimension and alert after each sample of the chunk, of its shape.

        Raises:
            ValueError: if the chunk has another shape or is not finite; the monitor is unchanged.
            TypeError: if it is not a real tensor or array.

        Examples:
            >>> RealtimeMonitor(window=5, k_max=2).update(np.arange(6.0)).fd.round(6)
            array([nan, nan, nan, nan,  1.,  1.])
        """
        signals = read_signals(chunk, -1, name="chunk")
        rows = self._rows(signals)
        begin = self.n_samples
        fd = self._sliding.push(rows)
        alert, events = self._judge(fd, begin)
        for event in events:
            self._announce(event)
        view = signals.view
        values = torch.from_numpy(fd).to(view.device, signals.dtype).reshape(view.shape)
        alert = alert.reshape(view.shape)
        flags = alert if signals.is_array else torch.from_numpy(alert).to(view.device)
        return MonitorState(deliver(signals, values), flags)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a monitor of the same options needs to go on from here.

        Returns:
            Tensors and numbers, as `torch.save` takes them; `on_alert` is not among them.

        Examples:
            >>> monitor = RealtimeMonitor(window=5, k_max=2)
            >>> _ = monitor.update(np.arange(7.0))
            >>> resumed = RealtimeMonitor(window=5, k_max=2)
            >>> resumed.load_state_dict(monitor.state_dict())
            >>> resumed.n_samples
            7
        """
        state = self._sliding.state()
        sums = {name: torch.from_numpy(np.asarray(state[name])) for name in _SUMS}
        options = {name: getattr(self, name) for name in ("window", "k_max", "channels")}
        active = torch.from_numpy(self._active.copy())
        return {**options, "count": self.n_samples, "active": active, **sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where another monitor stopped.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: if that monitor had another window, largest lag or number of channels, or
                something is missing.

        Examples:
            >>> monitor = RealtimeMonitor()
            >>> monitor.load_state_dict(monitor.state_dict())
        """
        options = ("window", "k_max", "channels")
        missing = [name for name in (*options, "count", "active", *_SUMS) if name not in state]
        if missing:
            raise ValueError(f"the state lacks {missing}; pass what state_dict returned")
        for name in options:
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the state is of a monitor with {name} = {state[name]}, this one has "
                    f"{getattr(self, name)}; make the monitor with the same options"
                )
        sums = {name: state[name].numpy() for name in _SUMS}
        self._sliding.restore({"count": state["count"], **sums})
        self._active = state["active"].numpy().copy()

    def _rows(self, signals: Signals) -> NDArray[np.float64]:
        view = signals.view.detach()
        shape = tuple(view.shape)
        if len(shape) == 1 and self.channels == 1:
            view = view[None]
        if view.ndim != 2 or view.shape[0] != self.channels:
            wanted = "(time,) or (1, time)" if self.channels == 1 else f"({self.channels}, time)"
            raise ValueError(f"chunk must have shape {wanted}, got {shape}; time comes last")
        samples = view.to("cpu", torch.float64)
        require_finite(signals, samples)
        rows: NDArray[np.float64] = samples.numpy()
        return rows

    def _judge(
        self, fd: NDArray[np.float64], begin: int
    ) -> tuple[NDArray[np.bool_], list[MonitorAlert]]:
        """Alert after each sample, and where it changes."""
        low = -np.inf if self.low is None else self.low
        high = np.inf if self.high is None else self.high
        # Comparisons with nan are False: such a sample decides nothing.
        outside = (fd < low) | (fd > high)
        if not outside.any() and not self._active.any():
            return outside, []
        inside = (fd >= low + self.hysteresis) & (fd <= high - self.hysteresis)
        place = np.arange(1, fd.shape[1] + 1)
        decided = np.maximum.accumulate(np.where(outside | inside, place, 0), axis=1)
        verdicts = np.concatenate([self._active[:, None], outside], axis=1)
        alert = np.take_along_axis(verdicts, decided, axis=1)
        before = np.concatenate([self._active[:, None], alert[:, :-1]], axis=1)
        self._active = np.concatenate([self._active[:, None], alert], axis=1)[:, -1]
        changes = np.argwhere((alert != before[:, : alert.shape[1]]).T).tolist()
        events = [
            MonitorAlert(c, begin + t, float(fd[c, t]), bool(alert[c, t])) for t, c in changes
        ]
        return alert, events

    def _announce(self, event: MonitorAlert) -> None:
        level = logging.WARNING if event.active else logging.INFO
        verb = "left" if event.active else "is back in"
        _LOG.log(
            level,
            "channel %d: dimension %.3f at sample %d %s its range",
            event.channel,
            event.fd,
            event.sample,
            verb,
        )
        if self.on_alert is not None:
            self.on_alert(event)


def monitor_stream(
    x: ArrayT,
    *,
    window: int = 1000,
    k_max: int = 10,
    low: float | None = 1.2,
    high: float | None = None,
    hysteresis: float = 0.05,
) -> MonitorState:
    """Run a monitor over a whole recording.

    Args:
        x: `(time,)` or `(channels, time)`.
        window: as in `RealtimeMonitor`.
        k_max: as in `RealtimeMonitor`.
        low: as in `RealtimeMonitor`.
        high: as in `RealtimeMonitor`.
        hysteresis: as in `RealtimeMonitor`.

    Returns:
        Dimension and alert after each sample, of the shape of `x`.

    Raises:
        ValueError: if an option is out of range, or `x` is not finite or has more axes.
        TypeError: if `x` is not a real tensor or array.

    Examples:
        >>> monitor_stream(torch.arange(60.0).reshape(2, 30), window=25).fd[:, -1].round()
        tensor([1., 1.])
    """
    signals = read_signals(x, -1)
    if signals.view.ndim > 2:
        raise ValueError(
            f"x must have shape (time,) or (channels, time), got {tuple(signals.view.shape)}"
        )
    channels = signals.view.shape[0] if signals.view.ndim == 2 else 1
    monitor = RealtimeMonitor(
        window=window, k_max=k_max, low=low, high=high, hysteresis=hysteresis, channels=channels
    )
    return monitor.update(x)


def _check_range(low: float | None, high: float | None, hysteresis: float) -> None:
    if not hysteresis >= 0:
        raise ValueError(f"hysteresis must be at least 0, got {hysteresis}")
    if low is not None and high is not None and low + hysteresis > high - hysteresis:
        raise ValueError(
            f"the range from low = {low} to high = {high} has no inside with hysteresis = "
            f"{hysteresis}; widen it or lower hysteresis"
        )
