"""The fractal dimension of a stream, sample by sample."""

from neuros_mechint.fractals._monitor import (
    MonitorAlert,
    MonitorState,
    RealtimeMonitor,
    monitor_stream,
)

__all__ = ["MonitorAlert", "MonitorState", "RealtimeMonitor", "monitor_stream"]
