"""What the routes of one process share: model, limits, counts."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Final

import torch

from neuros_neurofm.models import LinearPart, MultiModalNeuroFMX
from neuros_neurofm.models._linear_file import choose_linear_part
from neuros_neurofm.serving._payload import Samples, invalid
from neuros_neurofm.serving._problem import ProblemError
from neuros_neurofm.serving._worker import Worker
from neuros_neurofm.serving.limits import ServingLimits
from neuros_neurofm.streaming._linear import check_linear

__all__: list[str] = []

_PREFIX: Final = "neurofm_serve"


class Service:
    """A model, its limits and what has happened.

    Args:
        model: Is put in evaluation mode.
        limits: What is accepted.
        linear: Linear parts of the decoder, by session.

    Raises:
        ValueError: A linear part that is not of this model.
    """

    def __init__(
        self,
        model: MultiModalNeuroFMX,
        limits: ServingLimits,
        linear: Mapping[str, LinearPart] | None = None,
    ) -> None:
        self.model = model.eval()
        self.limits = limits
        dim = model.config["behavior_dim"]
        self._linear = {
            name: check_linear(part, model.sampling_rates, dim)
            for name, part in (linear or {}).items()
        }
        self.worker = Worker(limits)
        self.draining = False
        self.streams = 0
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.steps = 0

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def check_ready(self) -> None:
        """Refuse while the process stops or has no room.

        Raises:
            ProblemError: 503.
        """
        if self.draining:
            raise ProblemError(503, "draining", "the process finishes what it has")
        self.worker.check_room()

    def admit_stream(self) -> None:
        """Refuse a further stream where there is no room for it.

        Raises:
            ProblemError: 503.
        """
        self.check_ready()
        if self.streams >= self.limits.streams:
            raise ProblemError(503, "overloaded", f"{self.streams} streams are open already")

    def linear_of(self, session: str | None) -> LinearPart | None:
        """The linear part that the decoder of a session needs; None where it needs none.

        Raises:
            ProblemError: 422 for an unknown session, or none where several are known.
        """
        try:
            return choose_linear_part(self._linear, session)
        except ValueError as error:
            raise invalid(str(error)) from error

    def check_duration(self, samples: Samples, rates: dict[str, float]) -> None:
        """Refuse signals that span more steps of the grid than the limit.

        Raises:
            ProblemError: 422.
        """
        for name, x in samples.inputs.items():
            if name in rates:
                self.check_span(name, x.shape[1] / rates[name])

    def check_span(self, name: str, seconds: float) -> None:
        """Refuse a span of more steps of the grid than the limit.

        Raises:
            ProblemError: 422.
        """
        window = self.model.window
        most = self.limits.max_steps
        if window is not None and seconds * self.model.n_latents > most * window:
            raise invalid(
                f"{name} spans {seconds:g} s, but one request may span at most "
                f"{most * window / self.model.n_latents:g} s ({most} steps); send shorter pieces"
            )

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self.requests[route, status] += 1
        self.seconds[route] += seconds

    def exposition(self) -> str:
        """The counts in the text format of Prometheus."""
        lines = [f"# TYPE {_PREFIX}_requests_total counter"]
        lines += [
            f'{_PREFIX}_requests_total{{route="{route}",status="{status}"}} {n}'
            for (route, status), n in sorted(self.requests.items())
        ]
        lines.append(f"# TYPE {_PREFIX}_request_seconds_total counter")
        lines += [
            f'{_PREFIX}_request_seconds_total{{route="{route}"}} {seconds:.6f}'
            for route, seconds in sorted(self.seconds.items())
        ]
        for name, kind, value in (
            ("pending", "gauge", self.worker.pending),
            ("streams", "gauge", self.streams),
            ("stream_steps_total", "counter", self.steps),
        ):
            lines += [f"# TYPE {_PREFIX}_{name} {kind}", f"{_PREFIX}_{name} {value}"]
        return "\n".join(lines) + "\n"
