"""The outermost layer: identity, token, rate, count, log line and the form of every refusal."""

import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neuros_sourceweigher._service.limits import check_token
from neuros_sourceweigher._service.logs import LOGGER
from neuros_sourceweigher._service.problem import ClientGoneError, ProblemError
from neuros_sourceweigher._service.state import ServiceState

__all__: list[str] = []

KEY = "neuros_sourceweigher"
# Answered without a token: whoever probes a process has none.
OPEN = frozenset({"/healthz", "/readyz"})
_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")
_GONE = 499
_log = logging.getLogger(LOGGER)


@dataclass(slots=True)
class Exchange:
    """One request and what became of it."""

    headers: Mapping[bytes, bytes]
    request_id: str
    start: float
    status: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


class Frame:
    """Pure ASGI middleware around the whole application.

    Args:
        app: The application.
        state: Settings, metrics and whether the process is draining.
    """

    def __init__(self, app: ASGIApp, state: ServiceState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens inside."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        known = _ID.fullmatch(given)
        request_id = given.decode() if known else secrets.token_hex(16)
        exchange = scope[KEY] = Exchange(headers, request_id, time.perf_counter())

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                extra = [(b"x-request-id", request_id.encode())]
                if self._state.draining:
                    extra.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        metrics = self._state.metrics
        metrics.in_flight.inc()
        try:
            await self._guarded(scope, exchange, receive, answer)
        finally:
            metrics.in_flight.dec()
            self._close(scope, exchange)

    async def _guarded(
        self, scope: Scope, exchange: Exchange, receive: Receive, send: Send
    ) -> None:
        try:
            if scope["path"] not in OPEN:
                self._admit(scope, exchange)
            await self._app(scope, receive, send)
        except ClientGoneError:
            exchange.status = _GONE
            self._state.metrics.reject("client_gone")
        except ProblemError as problem:
            await self._refuse(problem, exchange, send)
        except Exception:
            _log.exception(
                "unexpected error", extra={"fields": {"request_id": exchange.request_id}}
            )
            if exchange.status:
                raise
            failure = ProblemError(500, "internal", "the log of the service holds the reason")
            await self._refuse(failure, exchange, send)

    def _admit(self, scope: Scope, exchange: Exchange) -> None:
        """Check token and rate; wrong tokens count against the address they come from."""
        state = self._state
        address = str((scope.get("client") or ("",))[0]).encode()
        caller = b"address " + address
        try:
            if state.secret is not None:
                check_token(exchange.headers, state.secret)
                caller = b"token " + state.secret
        finally:
            if state.rate is not None:
                state.rate.check(caller)

    async def _refuse(self, problem: ProblemError, exchange: Exchange, send: Send) -> None:
        self._state.metrics.reject(problem.code)
        body = problem.body(exchange.request_id)
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            *problem.headers,
        ]
        await send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _close(self, scope: Scope, exchange: Exchange) -> None:
        seconds = time.perf_counter() - exchange.start
        route = self._state.metrics.route(scope["path"])
        self._state.metrics.count(route, scope["method"], exchange.status, seconds)
        if _log.isEnabledFor(logging.INFO):
            fields = {
                "request_id": exchange.request_id,
                "method": scope["method"],
                "route": route,
                "status": exchange.status,
                "ms": round(1000 * seconds, 3),
                **exchange.facts,
            }
            _log.info("request", extra={"fields": fields})
