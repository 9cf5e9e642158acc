"""Requests without a network, and servers in processes of their own on the loopback."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from neuros_core.domains import DomainStatistics


@dataclass
class Reply:
    """What an application sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Ask = Callable[..., Reply]


async def ask_app(
    app: Any,
    path: str,
    body: bytes = b"",
    *,
    method: str = "POST",
    kind: str | None = "application/json",
    headers: Mapping[str, str] | None = None,
    parts: Sequence[bytes] | None = None,
    receive: Callable[[], Any] | None = None,
) -> Reply:
    """Send one request as an ASGI server does, with a body in one or several parts."""
    left = [body] if parts is None else list(parts)
    given = {} if kind is None else {"Content-Type": kind}
    if parts is None and body:
        given["Content-Length"] = str(len(body))
    given |= headers or {}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(k.lower().encode(), v.encode()) for k, v in given.items()],
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    sent: list[dict[str, Any]] = []

    async def from_list() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive or from_list, send)
    if not sent:
        return Reply(0, {}, b"")
    found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return Reply(sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:]))


@pytest.fixture(scope="session")
def ask() -> Ask:
    return lambda *args, **kwargs: asyncio.run(ask_app(*args, **kwargs))


@pytest.fixture(scope="session")
def ask_in_loop() -> Callable[..., Any]:
    return ask_app


def make_problem(K: int, d: int, *, seed: int = 0) -> tuple[list[DomainStatistics], Any]:
    rng = np.random.default_rng(seed)
    sources = [DomainStatistics(f"s{i}", 500, rng.normal(size=d)) for i in range(K)]
    return sources, DomainStatistics("target", 50, 0.1 * rng.normal(size=d))


@pytest.fixture
def problem() -> Callable[..., Any]:
    return make_problem


def make_document(sources: Sequence[DomainStatistics], target: DomainStatistics) -> dict[str, Any]:
    # Means alone have no efficient metric.
    options = {"metric": "identity"}
    ask = {"sources": [s.to_dict() for s in sources], "target": target.to_dict()}
    return ask | {"options": options}


@pytest.fixture
def document() -> Callable[..., dict[str, Any]]:
    return make_document


class Served:
    """A `neuros-sourceweigher serve` in a process of its own."""

    def __init__(self, environment: Mapping[str, str], arguments: Sequence[str]) -> None:
        names = {f"SOURCEWEIGHER_{k.upper()}": v for k, v in environment.items()}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "neuros_sourceweigher", "serve", "--port", "0", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | names,
        )
        self.lines: list[dict[str, Any]] = []
        self.port = self.read_until("listening")["port"]
        self.url = f"http://127.0.0.1:{self.port}"

    def read_until(self, message: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(json.loads(line))
            if self.lines[-1]["message"].startswith(message):
                return self.lines[-1]
        raise AssertionError(f"the server ended without {message!r}: {self.lines}")

    def ready(self, workers: int = 1) -> "Served":
        for _ in range(workers):
            self.read_until("Application startup complete")
        return self

    def rest(self) -> list[dict[str, Any]]:
        """Wait for the end of the process and return what it logged last."""
        assert self.process.stderr is not None
        found = [json.loads(line) for line in self.process.stderr]
        self.process.wait(30)
        return found


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(*arguments: str, **environment: str) -> Served:
        started.append(Served(environment, arguments))
        return started[-1]

    yield start
    for served in started:
        served.process.kill()
        served.process.wait(30)
        if served.process.stderr is not None:
            served.process.stderr.close()
