"""The application: a model's latents and decoded behaviour over HTTP, its streams over WebSocket.

Every refusal is an RFC 9457 problem; every answer carries `X-Request-ID`.
"""

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from neuros_neurofm.models import LinearPart, MultiModalNeuroFMX
from neuros_neurofm.serving._codec import JSON, answer_form, body_form, decode, encode
from neuros_neurofm.serving._extra import FastAPI, Request, Response, WebSocket
from neuros_neurofm.serving._payload import (
    Samples,
    as_array,
    invalid,
    read_name,
    read_object,
    read_samples,
    read_units,
)
from neuros_neurofm.serving._problem import MEDIA_TYPE, ProblemError, dump
from neuros_neurofm.serving._schema import describe
from neuros_neurofm.serving._service import Service
from neuros_neurofm.serving._stream import serve_stream
from neuros_neurofm.serving.limits import ServingLimits

__all__ = ["create_app"]

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OUTPUTS: Final = {
    "/v1/embed": ("latents", "pooled", "times"),
    "/v1/decode": ("decoder", "times"),
}

Endpoint = Callable[[Service, Request], Awaitable[Response]]


class _App(FastAPI):
    """FastAPI with the description of the bodies that the routes read themselves."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        return describe(self.state.service.limits)


def create_app(
    model: MultiModalNeuroFMX,
    limits: ServingLimits | None = None,
    *,
    linear: Mapping[str, LinearPart] | None = None,
) -> FastAPI:
    """An ASGI application that serves one model.

    `POST /v1/embed` and `POST /v1/decode` take `{"inputs": {modality: samples}, "units": ...}` with
    samples (time, channel) or (batch, time, channel), null for a missing one, as JSON or as
    MessagePack, and answer in the form that `Accept` prefers. `/v1/stream` is a WebSocket over
    `StreamingSession`. `/healthz`, `/readyz` and `/metrics` are for probes, and `/openapi.json`
    describes them all.

    Args:
        model: Answers as it does locally; it is put in evaluation mode.
        limits: What is accepted; the defaults of `ServingLimits` when None.
        linear: The `parts` of the `LinearSkipDecoder` that the model is of: decoded behaviour has
            the linear part of the request's `session` added.

    Returns:
        The application; `app.state.service.draining = True` makes it report not ready.

    Raises:
        ValueError: A linear part of other variables or another rate than the model's.

    Examples:
        >>> from neuros_neurofm import MultiModalNeuroFMX
        >>> app = create_app(MultiModalNeuroFMX(16, 1, 4, 16, modalities=("spike",)))
        >>> sorted(route.path for route in app.routes)[:3]
        ['/healthz', '/metrics', '/openapi.json']
    """
    service = Service(model, limits or ServingLimits(), linear)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.draining = True
        service.worker.close()

    app = _App(
        title="neurofm-serve",
        openapi_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        exception_handlers={
            404: _refuser(service, 404, "not_found", "POST /v1/embed or /v1/decode"),
            405: _refuser(service, 405, "method_not_allowed", "the header Allow names them"),
            500: _refuser(service, 500, "internal", "the log of the service holds the reason"),
        },
    )
    app.state.service = service
    for path in _OUTPUTS:
        app.add_api_route(path, _guarded(service, path, _answer), methods=["POST"])
    probes = {
        "/healthz": _health,
        "/readyz": _readiness,
        "/metrics": _metrics,
        "/openapi.json": _description,
    }
    for path, endpoint in probes.items():
        app.add_api_route(path, _guarded(service, path, endpoint), methods=["GET"])

    async def stream(websocket: WebSocket) -> None:
        await serve_stream(service, websocket)

    app.add_api_websocket_route("/v1/stream", stream)
    return app


def _guarded(
    service: Service, route: str, endpoint: Endpoint
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint with an identity, counted, and every failure in one form."""

    async def answer(request: Request) -> Response:
        given = request.headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(16)
        start = time.perf_counter()
        try:
            response = await endpoint(service, request)
        except ProblemError as problem:
            response = _refused(problem, request_id)
        response.headers["X-Request-ID"] = request_id
        if service.draining:
            response.headers["Connection"] = "close"
        service.count(route, response.status_code, time.perf_counter() - start)
        return response

    return answer


def _refuser(
    service: Service, status: int, code: str, detail: str
) -> Callable[[Request, Any], Coroutine[Any, Any, Response]]:
    """What the router refuses and what goes wrong, in the form of all refusals."""

    async def raise_problem(_service: Service, _request: Request) -> Response:
        raise ProblemError(status, code, detail)

    guarded = _guarded(service, "other", raise_problem)

    async def answer(request: Request, error: Any) -> Response:
        response = await guarded(request)
        response.headers.update(getattr(error, "headers", None) or {})
        return response

    return answer


def _refused(problem: ProblemError, request_id: str) -> Response:
    body = dump(problem.content(request_id))
    return Response(body, problem.status, media_type=MEDIA_TYPE, headers=problem.headers)


class _Question(NamedTuple):
    """What a request asks the model.

    Attributes:
        samples: The signals.
        units: Channel ids by modality.
        queries: Seconds at which the decoder is asked.
        linear: Added to what it says.
        names: Outputs that are asked for.
        form: Of the answer.
    """

    samples: Samples
    units: dict[str, list[str]] | None
    queries: torch.Tensor | None
    linear: LinearPart | None
    names: tuple[str, ...]
    form: str


async def _answer(service: Service, request: Request) -> Response:
    given = body_form(request.headers.get("content-type", ""))
    form = answer_form(request.headers.get("accept", ""), given)
    body = await _read_body(service.limits, request)
    route = request.scope["path"]
    asks_decoder = route == "/v1/decode"
    allowed = ("inputs", "units", "query_times", "session")
    content = read_object(decode(body, given), allowed if asks_decoder else allowed[:2])
    samples = read_samples(content.get("inputs"), device=service.device)
    units = read_units(content.get("units"))
    queries = _read_queries(content.get("query_times"), service.device)
    if asks_decoder and "decoder" not in service.model.heads:
        raise invalid("this model has no decoder; ask /v1/embed, or build it with behavior_dim > 0")
    session = read_name("session", content.get("session"))
    linear = service.linear_of(session) if asks_decoder else None
    service.check_duration(samples, service.model.sampling_rates)
    service.worker.check_room()
    question = _Question(samples, units, queries, linear, _OUTPUTS[route], form)
    work = partial(_compute, service.model, question)
    return Response(await service.worker.run(work), media_type=form)


def _compute(model: MultiModalNeuroFMX, question: _Question) -> bytes:
    samples, queries, linear = question.samples, question.queries, question.linear
    try:
        with torch.no_grad():
            output = model(
                samples.inputs, units=question.units, masks=samples.masks, query_times=queries
            )
            values = {name: getattr(output, name) for name in question.names}
            if queries is not None:
                values["times"] = queries
            if linear is not None:
                rest = linear.at(samples.inputs, values["times"], samples.masks)
                values["decoder"] = values["decoder"] + rest.to(values["decoder"])
    except (ValueError, TypeError) as error:
        raise invalid(str(error)) from error
    content = {
        name: as_array(value, batched=samples.batched or name == "times")
        for name, value in values.items()
    }
    try:
        return encode(content, question.form)
    except ValueError as error:
        raise invalid("the answer holds NaN or infinity; are the inputs in their units?") from error


def _read_queries(content: object, device: torch.device) -> torch.Tensor | None:
    if content is None:
        return None
    rows = content[None] if isinstance(content, np.ndarray) else [content]
    samples = read_samples({"query_times": rows}, device=device)
    if not samples.masks["query_times"].all() or samples.batched:
        raise invalid("query_times must be a list of seconds")
    return samples.inputs["query_times"][0, 0].double()


async def _read_body(limits: ServingLimits, request: Request) -> bytes:
    """The body, never more than the limit of it.

    Raises:
        ProblemError: 408, 413, or 415 where it is compressed.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ProblemError(415, "unsupported_media_type", "the body must not be compressed")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_body:
        raise _too_large(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.timeout):
            async for piece in request.stream():
                body += piece
                if len(body) > limits.max_body:
                    raise _too_large(limits)
    except TimeoutError as error:
        raise ProblemError(
            408, "slow_body", f"the body must arrive within {limits.timeout:g} s"
        ) from error
    return bytes(body)


def _too_large(limits: ServingLimits) -> ProblemError:
    return ProblemError(413, "too_large", f"the body may have at most {limits.max_body} bytes")


async def _health(_service: Service, _request: Request) -> Response:
    return Response(b'{"status":"ok"}', media_type=JSON)


async def _readiness(service: Service, _request: Request) -> Response:
    service.check_ready()
    return Response(b'{"status":"ready"}', media_type=JSON)


async def _metrics(service: Service, _request: Request) -> Response:
    return Response(service.exposition(), media_type="text/plain; version=0.0.4")


async def _description(service: Service, _request: Request) -> Response:
    return Response(dump(describe(service.limits)), media_type=JSON)
