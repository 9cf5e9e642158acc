"""A route that solves something: the checks in their order, then the problem itself."""

import asyncio
import functools
import time
from collections.abc import Callable, Mapping

from starlette.types import Receive, Scope, Send

from neuros_sourceweigher._service.codec import answer_type, body_type
from neuros_sourceweigher._service.frame import KEY, Exchange
from neuros_sourceweigher._service.problem import ClientGoneError, ProblemError
from neuros_sourceweigher._service.state import ServiceState
from neuros_sourceweigher._service.work import Answer, Read, Request, read_task

__all__: list[str] = []

# Bodies up to this length are read in far less than a millisecond.
_SMALL_BODY = 64 * 2**10
_SMALL_SECONDS = 1e-3


class Operation:
    """An ASGI endpoint for one operation.

    Args:
        read: Reads the document of a body.
        state: What the application shares.
    """

    def __init__(self, read: Read, state: ServiceState) -> None:
        self._read = read
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or raise a problem."""
        exchange: Exchange = scope[KEY]
        kind = body_type(exchange.headers)
        wanted = answer_type(exchange.headers, kind)
        self._check_length(exchange.headers)
        # Before the body, so that a full queue costs its callers and this process nothing.
        self._state.pool.check_room()
        body = await self._receive(receive)
        answer = await self._answer(Request(body, kind, wanted), exchange, receive)
        self._state.metrics.solved(answer)
        exchange.facts = {"K": answer.sources, "d": answer.features}
        headers = [
            (b"content-type", wanted.encode()),
            (b"content-length", str(len(answer.body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    def _check_length(self, headers: Mapping[bytes, bytes]) -> None:
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit():
            raise ProblemError(400, "malformed", "Content-Length needs a whole number")
        # No length of more digits fits a limit, and int() takes only so many.
        if len(declared) > 18 or int(declared) > self._state.settings.max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> ProblemError:
        limit = self._state.settings.max_body_bytes
        return ProblemError(413, "too_large", f"the body needs at most {limit} bytes")

    async def _receive(self, receive: Receive) -> bytes:
        """Return the body, held to its size and time while it arrives."""
        settings = self._state.settings
        parts, size = [], 0
        limit = min(settings.body_timeout_s, settings.request_timeout_s)
        try:
            async with asyncio.timeout(limit):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    part = message.get("body", b"")
                    size += len(part)
                    if size > settings.max_body_bytes:
                        raise self._too_large()
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts) if len(parts) > 1 else part
        except TimeoutError:
            raise ProblemError(
                408,
                "slow_body",
                f"the body needs to arrive within {limit:g} s",
                headers=[(b"connection", b"close")],
            ) from None

    async def _answer(self, request: Request, exchange: Exchange, receive: Receive) -> Answer:
        read = functools.partial(read_task, self._read, request, self._state.settings)
        if len(request.body) > _SMALL_BODY:
            return await self._pooled(lambda: read().run(), exchange, receive)
        task = read()
        if task.seconds < _SMALL_SECONDS:
            return task.run()
        return await self._pooled(task.run, exchange, receive)

    async def _pooled(
        self, call: Callable[[], Answer], exchange: Exchange, receive: Receive
    ) -> Answer:
        state = self._state
        left = state.settings.request_timeout_s - (time.perf_counter() - exchange.start)
        return await state.pool.run(call, seconds=max(left, 0.0), receive=receive)
