"""What a request asks for: read, estimated, solved and written without anything of HTTP."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import orjson

from neuros_core.domains import ClassSourceWeights, DomainStatistics, SourceWeights
from neuros_sourceweigher._service.codec import MSGPACK, decode
from neuros_sourceweigher._service.options import (
    CLASS_METHOD,
    CLASS_TABLE,
    DEFAULT_METHOD,
    METHODS,
    TABLES,
    Option,
)
from neuros_sourceweigher._service.problem import ProblemError, retry_after
from neuros_sourceweigher._service.reader import Reader, needed
from neuros_sourceweigher._service.settings import ServiceSettings
from neuros_sourceweigher._wire import pack
from neuros_sourceweigher.simplex import project_simplex

__all__: list[str] = []

CLASS_NAME = "class-conditional"
# Seconds of parts of a fit on a slow core: only their order of magnitude matters.
_BASE, _SOLVE, _METRIC, _FACTOR, _DRAW = 3e-4, 1e-8, 1.5e-3, 3e-10, 1e-7


class Request(NamedTuple):
    """A body with the media types that go in and out."""

    body: bytes
    kind: str
    answer: str


@dataclass(slots=True)
class Answer:
    """An encoded result with what logs and metrics say about it."""

    body: bytes
    method: str
    sources: int
    features: int
    seconds: float
    gaps: Sequence[float] = ()
    out_of_hull: int = 0


@dataclass(slots=True)
class Task:
    """A problem that was read: how long it will take, and the call that solves it.

    Args:
        method: What solves it.
        sources: K.
        features: d.
        seconds: Rough estimate.
        solve: Returns the results.
        write: Turns the results into the body of the answer.
    """

    method: str
    sources: int
    features: int
    seconds: float
    solve: Callable[[], Any]
    write: Callable[[Any, str], bytes]
    kind: str = field(default="")

    def run(self) -> Answer:
        """Solve and encode; what the library refuses is a problem with status 422."""
        start = time.perf_counter()
        try:
            # A result that overflows is refused by its own type; NumPy's note on it is not needed.
            with np.errstate(all="ignore"):
                result = self.solve()
        except (ValueError, RuntimeError, ArithmeticError) as error:
            raise ProblemError(422, "invalid", needed(error)) from error
        except MemoryError as error:
            detail = "the problem does not fit into memory; send a smaller one"
            raise ProblemError(503, "overloaded", detail, headers=[retry_after(1)]) from error
        seconds = time.perf_counter() - start
        body = self.write(result, self.kind)
        answer = Answer(body, self.method, self.sources, self.features, seconds)
        found = result if isinstance(result, list) else [result]
        weights = [w for w in found if isinstance(w, SourceWeights)]
        answer.gaps = [w.gap for w in weights if w.gap is not None]
        answer.out_of_hull = sum(
            w.diagnosis is not None and w.diagnosis.in_hull is False for w in weights
        )
        return answer


Read = Callable[[Reader], Task]


def read_task(read: Read, request: Request, settings: ServiceSettings) -> Task:
    """Decode and validate a request.

    Raises:
        ProblemError: 400 for what cannot be decoded, 422 for what is not a valid problem.
    """
    longest = max(settings.max_sources, settings.max_features)
    task = read(Reader(decode(request.body, request.kind, longest=longest), settings))
    task.kind = request.answer
    return task


def read_weights(reader: Reader) -> Task:
    """Read the body of POST /v1/weights."""
    given = reader.body(required=("sources", "target"), optional=("options", "quality"))
    sources = reader.domains(given["sources"], "sources")
    target = reader.domain(given["target"], "target")
    reader.same_space(sources, target)
    method, options = reader.options(given.get("options", {}), TABLES, DEFAULT_METHOD)
    p = _matched_features(reader, target.d, options)
    weigher = _build(METHODS[method], options)
    seconds = _estimate(sources, p, options, TABLES[method])
    K, d = len(sources), target.d
    quality = _read_shares(reader, given, "quality")

    def solve() -> SourceWeights:
        found: SourceWeights = weigher.fit(sources, target, quality=quality)
        return found

    return Task(method, K, d, seconds, solve, _write_weights)


def read_batch(reader: Reader) -> Task:
    """Read the body of POST /v1/weights/batch."""
    given = reader.body(required=("sources", "targets"), optional=("options", "quality"))
    sources = reader.domains(given["sources"], "sources")
    targets = reader.domains(given["targets"], "targets")
    reader.same_space(sources, targets[0])
    for i, target in enumerate(targets):
        if (target.space, target.d) != (targets[0].space, targets[0].d):
            reader.faults.append((f"targets/{i}", "needs the space and features of the first"))
            reader.refuse()
    method, options = reader.options(given.get("options", {}), TABLES, DEFAULT_METHOD)
    p = _matched_features(reader, targets[0].d, options)
    weigher = _build(METHODS[method], options)
    seconds = _estimate(sources, p, options, TABLES[method]) * len(targets)
    K, d = len(sources), targets[0].d
    quality = _read_shares(reader, given, "quality")

    def solve() -> list[SourceWeights]:
        # One by one: the same bits as a local fit, which a joint factorisation would not give.
        return [weigher.fit(sources, target, quality=quality) for target in targets]

    return Task(method, K, d, seconds, solve, _write_batch)


def read_class_weights(reader: Reader) -> Task:
    """Read the body of POST /v1/class-weights."""
    optional = ("options", "target_priors")
    given = reader.body(required=("sources", "target"), optional=optional)
    sources = reader.domains(given["sources"], "sources")
    target = reader.domain(given["target"], "target")
    reader.same_space(sources, target)
    for i, source in enumerate(sources):
        if not source.classes:
            reader.faults.append((f"sources/{i}/classes", "needs at least one class"))
            reader.refuse()
    tables = {CLASS_NAME: CLASS_TABLE}
    _, options = reader.options(given.get("options", {}), tables, CLASS_NAME)
    weigher = _build(CLASS_METHOD, options)
    priors = _read_shares(reader, given, "target_priors")
    atoms = [part for source in sources for part in source.classes.values()]
    return Task(
        CLASS_NAME,
        len(sources),
        target.d,
        _estimate(atoms, target.d, options, CLASS_TABLE),
        lambda: weigher.fit(sources, target, target_priors=priors),
        _write_class_weights,
    )


def _read_shares(reader: Reader, given: Mapping[str, Any], name: str) -> dict[str, float] | None:
    """Return an optional map from names to numbers; the library checks names and range."""
    node = given.get(name)
    if node is None:
        return None
    if not isinstance(node, dict) or not node:
        reader.faults.append((name, "needs an object of at least one number"))
        reader.refuse()
    return {
        label: reader.number(value, f"{name}/{i}") for i, (label, value) in enumerate(node.items())
    }


def read_points(reader: Reader) -> Task:
    """Read the body of POST /v1/project."""
    given = reader.body(required=("v",), optional=("radius",))
    v = reader.points(given["v"], "v")
    radius = reader.number(given.get("radius", 1.0), "radius")
    rows, K = len(v) if v.ndim == 2 else 1, v.shape[-1]
    seconds = _BASE / 10 + 1e-7 * v.size

    def solve() -> Any:
        w = project_simplex(v, radius=radius)
        if not np.isfinite(w).all():
            raise ValueError("v and radius need a projection within the range of float64")
        return w

    return Task("project", rows, K, seconds, solve, _write_points)


# The routes that solve something, under /v1.
OPERATIONS: Mapping[str, Read] = {
    "/v1/weights": read_weights,
    "/v1/weights/batch": read_batch,
    "/v1/project": read_points,
} | ({} if CLASS_METHOD is None else {"/v1/class-weights": read_class_weights})


def _build(method: Any, options: Mapping[str, Any]) -> Any:
    try:
        return method(**options)
    except (ValueError, TypeError) as error:
        message = needed(error)
        raise ProblemError(
            422, "invalid", f"options: {message}", errors=[("options", message)]
        ) from error


def _matched_features(reader: Reader, d: int, options: Mapping[str, Any]) -> int:
    """Return how many moments are matched; second moments are held to the same limit as means."""
    if options.get("moments") != "mean+cov":
        return d
    p, limit = d * (d + 3) // 2, reader.settings.max_features
    if p > limit:
        message = f"needs moments of at most {limit} features; mean+cov of {d} has {p}"
        reader.faults.append(("options/moments", message))
        reader.refuse()
    return p


def _estimate(
    sources: Sequence[DomainStatistics],
    p: int,
    options: Mapping[str, Any],
    table: Mapping[str, Option],
) -> float:
    """Return rough seconds of a fit; a metric factorises the covariance of every source."""
    K = len(sources)
    seconds = _BASE + _SOLVE * K * p * min(K, p)
    if options.get("metric", table["metric"].default) != "identity":
        seconds += _METRIC + _FACTOR * p**3 * (K + 3)
    # A path solves for 26 ridges in each of 50 parametric folds, in batches.
    seconds *= 30 if options.get("ridge") == "auto" else 1
    return seconds + int(options.get("n_bootstrap", 0)) * _DRAW * (50 + K * p)


def _write_weights(weights: SourceWeights, kind: str) -> bytes:
    if kind == MSGPACK:
        return pack(_with_arrays(weights))
    return weights.to_json().encode()


def _with_arrays(weights: SourceWeights) -> dict[str, Any]:
    arrays = ("weights", "stderr", "interval")
    return weights.to_dict() | {name: getattr(weights, name) for name in arrays}


def _write_batch(results: list[SourceWeights], kind: str) -> bytes:
    if kind == MSGPACK:
        return pack({"results": [_with_arrays(w) for w in results]})
    return b'{"results": [' + b", ".join(w.to_json().encode() for w in results) + b"]}"


def _write_class_weights(weights: ClassSourceWeights, kind: str) -> bytes:
    names = {"schema": 1, "names": list(weights.names), "classes": list(weights.classes)}
    return _dump(names | {"joint": weights.joint}, kind)


def _write_points(w: Any, kind: str) -> bytes:
    return _dump({"w": w}, kind)


def _dump(tree: dict[str, Any], kind: str) -> bytes:
    if kind == MSGPACK:
        return pack(tree)
    return orjson.dumps(tree, option=orjson.OPT_SERIALIZE_NUMPY)
