"""What Prometheus reads, for one process or several that share a directory."""

import os
from collections.abc import Collection
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from neuros_sourceweigher._service.work import Answer

__all__: list[str] = []

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = CONTENT_TYPE_LATEST
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 4, 16, 64, 256, 1024, 4096, 16384)
_GAPS = (0, 1e-16, 1e-14, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1)


class Metrics:
    """Counters, gauges and histograms of one application.

    Args:
        routes: Values of the label `route`; every other path counts as `other`.
    """

    def __init__(self, routes: Collection[str]) -> None:
        self._routes = frozenset(routes)
        self.registry = registry = CollectorRegistry()
        labels = ["route", "method", "status"]
        self._requests = Counter(
            "sourceweigher_requests", "Requests answered", labels, registry=registry
        )
        self._durations = Histogram(
            "sourceweigher_request_duration_seconds",
            "From the head of a request to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "sourceweigher_in_flight",
            "Requests being answered",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.queue_depth = Gauge(
            "sourceweigher_queue_depth",
            "Problems that wait for a thread",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._solves = Histogram(
            "sourceweigher_solve_seconds",
            "Time of a solve",
            ["method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._sizes = Histogram(
            "sourceweigher_problem_size",
            "Sources and features of a problem",
            ["dim"],
            buckets=_SIZES,
            registry=registry,
        )
        self._gaps = Histogram(
            "sourceweigher_certified_gap",
            "Bound on the distance of an objective from its optimum",
            buckets=_GAPS,
            registry=registry,
        )
        self._out_of_hull = Counter(
            "sourceweigher_out_of_hull", "Targets that no mixture explains", registry=registry
        )
        self._rejected = Counter(
            "sourceweigher_rejected", "Requests refused, by code", ["reason"], registry=registry
        )

    def route(self, path: str) -> str:
        """Return the value of the label `route`."""
        return path if path in self._routes else "other"

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        known = method if method in _METHODS else "other"
        self._requests.labels(route, known, str(status)).inc()
        self._durations.labels(route).observe(seconds)

    def reject(self, reason: str) -> None:
        """Count one refusal."""
        self._rejected.labels(reason).inc()

    def solved(self, answer: Answer) -> None:
        """Count one solved problem."""
        self._solves.labels(answer.method).observe(answer.seconds)
        self._sizes.labels("sources").observe(answer.sources)
        self._sizes.labels("features").observe(answer.features)
        for gap in answer.gaps:
            self._gaps.observe(gap)
        if answer.out_of_hull:
            self._out_of_hull.inc(answer.out_of_hull)

    def exposition(self) -> bytes:
        """Return the text that Prometheus scrapes: of all workers, where there are several."""
        if DIRECTORY not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        collect: Any = MultiProcessCollector
        collect(registry)
        return generate_latest(registry)
