"""One WebSocket connection is one `StreamingSession`."""

import asyncio
import secrets
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from neuros_neurofm.serving._codec import JSON, MSGPACK, decode, encode
from neuros_neurofm.serving._extra import Response, WebSocket, WebSocketDisconnect
from neuros_neurofm.serving._payload import (
    as_array,
    invalid,
    read_name,
    read_names,
    read_number,
    read_object,
    read_samples,
    read_units,
)
from neuros_neurofm.serving._problem import MEDIA_TYPE, ProblemError, dump
from neuros_neurofm.serving._service import Service
from neuros_neurofm.streaming import StepOutput, StreamingSession

__all__: list[str] = []

_OUTPUTS: Final = ("decoder", "latents", "pooled", "contrastive", "encoder")
_OPEN: Final = ("units", "sampling_rates", "max_lag", "outputs", "session")
_CHUNK: Final = ("inputs", "units", "t", "leave", "finish")
_NORMAL, _POLICY, _TOO_LARGE, _FAILED = 1000, 1008, 1009, 1011


class Connection:
    """The session of one connection and what it was opened with.

    Args:
        service: The model and its limits.
        content: The first message.
    """

    def __init__(self, service: Service, content: Mapping[str, Any]) -> None:
        self._service = service
        self.units = read_units(content.get("units")) or {}
        self.outputs = read_names("outputs", content.get("outputs", ["decoder"]), _OUTPUTS)
        rates = content.get("sampling_rates") or {}
        if not isinstance(rates, Mapping):
            raise invalid("sampling_rates must be an object of numbers in Hz")
        given = {name: read_number(f"sampling_rates.{name}", hz) for name, hz in rates.items()}
        try:
            self.session = StreamingSession(
                service.model,
                {name: hz for name, hz in given.items() if hz is not None},
                max_lag=read_number("max_lag", content.get("max_lag")),
                linear=service.linear_of(read_name("session", content.get("session"))),
            )
        except ValueError as error:
            raise invalid(str(error)) from error

    def opened(self) -> dict[str, Any]:
        """The answer to the first message."""
        session = self.session
        return {
            "opened": {
                "step": session.step,
                "sampling_rates": session.rates,
                "modalities": list(session.model.modalities),
                "outputs": self.outputs,
            }
        }

    def handle(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a chunk.

        Raises:
            ProblemError: 422 for what the session refuses; it stays as it was.
        """
        leave = read_names("leave", content.get("leave", []), self.session.model.modalities)
        if leave and "inputs" in content:
            raise invalid("leave and inputs exclude each other in one message; send two")
        try:
            if leave:
                steps = self.session.leave(*leave)
            elif content.get("finish") is True:
                steps = self.session.finish()
            else:
                steps = self._push(content)
        except (ValueError, TypeError) as error:
            raise invalid(str(error)) from error
        self._service.steps += len(steps)
        return {"steps": [self._step(step) for step in steps]}

    def _push(self, content: Mapping[str, Any]) -> list[StepOutput]:
        samples = read_samples(content.get("inputs"), device=self._service.device)
        self._service.check_duration(samples, self.session.rates)
        t = read_number("t", content.get("t"))
        if t is not None:
            self._service.check_span("the gap before t", t - self.session.time)
        given = self.units | (read_units(content.get("units")) or {})
        units = {name: ids for name, ids in given.items() if name in samples.inputs}
        return self.session.push(samples.inputs, t, units=units, masks=samples.masks)

    def _step(self, step: StepOutput) -> dict[str, Any]:
        line: dict[str, Any] = {"t": float(step.times), "modalities": list(step.modalities)}
        for name in self.outputs:
            value = getattr(step, name)
            if isinstance(value, dict):
                line[name] = {m: as_array(part, batched=True) for m, part in value.items()}
            else:
                line[name] = None if value is None else as_array(value, batched=True)
        return line


async def serve_stream(service: Service, websocket: WebSocket) -> None:
    """Answer one connection, message by message: the next is read when the last is answered."""
    request_id = secrets.token_hex(16)
    try:
        service.admit_stream()
    except ProblemError as problem:
        body = dump(problem.content(request_id))
        refusal = Response(body, problem.status, media_type=MEDIA_TYPE, headers=problem.headers)
        await websocket.send_denial_response(refusal)
        return
    service.streams += 1
    try:
        await websocket.accept(headers=[(b"x-request-id", request_id.encode())])
        await _converse(service, websocket, request_id)
    except WebSocketDisconnect:
        # The caller has gone; its session goes with it.
        return
    finally:
        service.streams -= 1


async def _converse(service: Service, websocket: WebSocket, request_id: str) -> None:
    connection: Connection | None = None
    while (message := await _receive(service, websocket)) is not None:
        # An answer has the form of its message.
        form = JSON if isinstance(message, str) else MSGPACK
        try:
            allowed = _OPEN if connection is None else _CHUNK
            content = read_object(decode(message, form), allowed)
            if connection is None:
                connection = Connection(service, content)
                answer = encode(connection.opened(), form)
            else:
                answer = await service.worker.run(partial(_answer, connection, content, form))
        except ProblemError as problem:
            await _send(websocket, encode({"problem": problem.content(request_id)}, form), form)
            # After a time limit nobody knows what the session has read.
            if problem.status >= 500 or connection is None:
                await websocket.close(_FAILED if problem.status >= 500 else _POLICY)
                return
            continue
        await _send(websocket, answer, form)
        if content.get("finish") is True:
            await websocket.close(_NORMAL)
            return


async def _receive(service: Service, websocket: WebSocket) -> str | bytes | None:
    """The next message, or None after closing a connection that sends none that can be read."""
    try:
        event = await asyncio.wait_for(websocket.receive(), service.limits.idle)
    except TimeoutError:
        await websocket.close(_POLICY, f"no message for {service.limits.idle:g} s")
        return None
    if event["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(event["code"], event.get("reason"))
    text: str | None = event.get("text")
    message: str | bytes = event["bytes"] if text is None else text
    if len(message) > service.limits.max_body:
        await websocket.close(_TOO_LARGE, f"a message has at most {service.limits.max_body} bytes")
        return None
    return message


async def _send(websocket: WebSocket, answer: bytes, form: str) -> None:
    if form == JSON:
        await websocket.send_text(answer.decode())
    else:
        await websocket.send_bytes(answer)


def _answer(connection: Connection, content: Mapping[str, Any], form: str) -> bytes:
    """Steps as a message: long lists are written off the event loop, too."""
    try:
        return encode(connection.handle(content), form)
    except ValueError as error:
        raise invalid("the answer holds NaN or infinity; are the inputs in their units?") from error
