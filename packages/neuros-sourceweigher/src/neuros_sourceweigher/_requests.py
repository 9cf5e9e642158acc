"""What the clients send, how they read answers, and when they try again: no input or output."""

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuros_core.domains import ClassSourceWeights, DomainStatistics, SourceWeights
from neuros_sourceweigher._wire import pack, unpack

__all__: list[str] = []

T = TypeVar("T")
Value = str | float | Sequence[float] | None
_FIRST_DELAY_S = 0.1
_AGAIN = (429, 503)


class SourceWeigherError(Exception):
    """A request that the service refused or that did not reach it.

    Args:
        status: HTTP status; 0 when no answer came.
        code: The code of the problem, such as `"invalid"`; `"unreachable"` without an answer.
        detail: What is needed.
        request_id: How the log of the service calls the request.

    Examples:
        >>> error = SourceWeigherError(422, "invalid", "sources needs one domain", "a1")
        >>> str(error)
        '422 invalid: sources needs one domain (request a1)'
    """

    def __init__(self, status: int, code: str, detail: str, request_id: str) -> None:
        super().__init__(status, code, detail, request_id)
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id

    def __str__(self) -> str:
        named = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.status} {self.code}: {self.detail}{named}"


class Call(NamedTuple, Generic[T]):
    """A request, and the function that reads its answer."""

    path: str
    tree: dict[str, Any]
    read: Callable[[dict[str, Any]], T]

    def body(self, *, binary: bool) -> tuple[bytes, dict[str, str]]:
        """Return the content and its headers."""
        kind = "application/msgpack" if binary else "application/json"
        content = pack(self.tree) if binary else _to_json(self.tree)
        return content, {"Content-Type": kind, "Accept": kind}


def _to_json(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, default=np.ndarray.tolist, allow_nan=False).encode()


def _domain(statistics: DomainStatistics) -> dict[str, Any]:
    return {
        "schema": 1,
        "name": statistics.name,
        "n": statistics.n,
        "mean": statistics.mean,
        "cov": statistics.cov,
        "space": statistics.space,
        "classes": {label: _domain(part) for label, part in statistics.classes.items()},
    }


def weights_call(
    sources: Sequence[DomainStatistics],
    target: DomainStatistics,
    quality: Mapping[str, float] | None,
    options: Mapping[str, Value],
) -> Call[SourceWeights]:
    """Ask for the weights of `sources` that explain `target`."""
    tree = {"sources": [*map(_domain, sources)], "target": _domain(target)}
    return Call("/v1/weights", tree | _asked_for(options, quality), SourceWeights.from_dict)


def batch_call(
    sources: Sequence[DomainStatistics],
    targets: Sequence[DomainStatistics],
    quality: Mapping[str, float] | None,
    options: Mapping[str, Value],
) -> Call[list[SourceWeights]]:
    """Ask for the weights of `sources` for each of `targets`."""
    tree = {"sources": [*map(_domain, sources)], "targets": [*map(_domain, targets)]}

    def read(answer: dict[str, Any]) -> list[SourceWeights]:
        return [SourceWeights.from_dict(entry) for entry in answer["results"]]

    return Call("/v1/weights/batch", tree | _asked_for(options, quality), read)


def _asked_for(options: Mapping[str, Value], quality: Mapping[str, float] | None) -> dict[str, Any]:
    asked: dict[str, Any] = {"options": dict(options)}
    return asked if quality is None else asked | {"quality": dict(quality)}


def class_weights_call(
    sources: Sequence[DomainStatistics],
    target: DomainStatistics,
    target_priors: Mapping[str, float] | None,
    options: Mapping[str, Value],
) -> Call[ClassSourceWeights]:
    """Ask for joint weights of sources and classes."""
    tree: dict[str, Any] = {"sources": [*map(_domain, sources)], "target": _domain(target)}
    tree["options"] = dict(options)
    if target_priors is not None:
        tree["target_priors"] = dict(target_priors)

    def read(answer: dict[str, Any]) -> ClassSourceWeights:
        joint = np.asarray(answer["joint"], dtype=np.float64)
        return ClassSourceWeights(tuple(answer["names"]), tuple(answer["classes"]), joint)

    return Call("/v1/class-weights", tree, read)


def project_call(v: ArrayLike, radius: float) -> Call[NDArray[np.float64]]:
    """Ask for a projection onto the simplex."""
    points = np.asarray(v, dtype=np.float64)

    def read(answer: dict[str, Any]) -> NDArray[np.float64]:
        return np.array(answer["w"], dtype=np.float64)

    return Call("/v1/project", {"v": points, "radius": float(radius)}, read)


def read_answer(call: Call[T], status: int, headers: Mapping[str, str], content: bytes) -> T:
    """Return the result that an answer holds.

    Raises:
        SourceWeigherError: When the answer is a refusal, or is not of this service.
    """
    kind = headers.get("content-type", "").partition(";")[0]
    request_id = headers.get("x-request-id", "")
    try:
        if status != 200:
            problem = json.loads(content)
            raise SourceWeigherError(
                status, str(problem["code"]), str(problem["detail"]), request_id
            )
        binary = kind == "application/msgpack"
        return call.read(unpack(content) if binary else json.loads(content))
    except (ValueError, KeyError, TypeError) as error:
        raise SourceWeigherError(
            status, "unreadable", f"the answer of type {kind!r} is not of this service", request_id
        ) from error


class Retries:
    """When to send a request again.

    Args:
        most: Largest number of further attempts.
        patience: Longest pause in seconds; a service that asks for a longer one is not waited for.
    """

    def __init__(self, most: int, patience: float) -> None:
        if most < 0:
            raise ValueError(f"retries needs a whole number >= 0, got {most!r}")
        self.most = most
        self.patience = patience

    def pause(self, attempt: int, status: int, headers: Mapping[str, str]) -> float | None:
        """Return seconds to wait before attempt `attempt + 1`, or None for no further attempt.

        Args:
            attempt: Attempts so far, from 1.
            status: Of the answer; 0 when there was no connection.
            headers: Of the answer.
        """
        if attempt > self.most or (status and status not in _AGAIN):
            return None
        # Jitter: callers that were refused together must not come back together.
        backoff = _FIRST_DELAY_S * 2 ** (attempt - 1) * secrets.SystemRandom().uniform(0.5, 1.5)
        wait = max(backoff, _asked(headers.get("retry-after", "")))
        return wait if wait <= self.patience else None


def _asked(value: str) -> float:
    """Return the seconds that `Retry-After` asks for: a number, or a date (RFC 9110)."""
    if value.strip().isdigit():
        return float(value)
    try:
        return parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError):
        return 0.0
