"""A local HTTP server that misbehaves as told."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from neuros_data.transfer import TransferSettings


@dataclass
class Page:
    """What the server holds under one path, and how it behaves about it.

    Attributes:
        body: The bytes.
        etag: Its ETag; empty sends none.
        modified: Its Last-Modified; empty sends none.
        ranges: False ignores Range.
        answers: What the first requests get instead: (status, headers).
        drop_after: Bytes after which the first connections are cut, one entry a request.
        claim: Bytes added to the true Content-Length.
        without_length: True sends neither a length nor chunks: the end of the connection counts.
        wrong: How many of the first requests get other bytes of the same length.
        delay: Seconds before each answer.
        pause: Seconds after each piece of 64 KiB.
        hold: The body stops after `hold_after` bytes until this is set.
        hold_after: Where it stops.
        headers: More headers.
    """

    body: bytes
    etag: str = '"v1"'
    modified: str = ""
    ranges: bool = True
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    drop_after: list[int] = field(default_factory=list)
    claim: int = 0
    without_length: bool = False
    wrong: int = 0
    delay: float = 0.0
    pause: float = 0.0
    hold: threading.Event | None = None
    hold_after: int = 0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Asked:
    """One request, with the bytes of the body that were sent."""

    path: str
    range: str
    headers: dict[str, str]
    at: float
    status: int = 0
    sent: int = 0


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is what some tests are about."""


class Server:
    """Serves pages and remembers every request."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self._busy = 0
        self._lock = threading.Lock()

        def get(request: BaseHTTPRequestHandler) -> None:
            self.answer(request)

        handler = type(
            "Handler",
            (BaseHTTPRequestHandler,),
            {
                "protocol_version": "HTTP/1.1",
                "do_GET": get,
                "log_message": lambda *_: None,
            },
        )
        self._server = _Quiet(("127.0.0.1", 0), handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def url(self, path: str) -> str:
        return f"http://{self.host}/{path}"

    def put(self, path: str, body: bytes, **behaviour: Any) -> str:
        """Hold bytes under a path; returns its address."""
        self.pages[f"/{path}"] = Page(body, **behaviour)
        return self.url(path)

    def sent(self, path: str | None = None) -> int:
        """Body bytes sent so far."""
        return sum(a.sent for a in self.asked if path is None or a.path == f"/{path}")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        headers = dict(handler.headers.items())
        asked = Asked(handler.path, headers.get("Range", ""), headers, time.monotonic())
        with self._lock:
            self.asked.append(asked)
            self._busy += 1
            self.most_at_once = max(self.most_at_once, self._busy)
        try:
            page = self.pages.get(handler.path)
            if page is None:
                self._plain(handler, asked, 404, {})
            else:
                self._page(handler, asked, page)
        finally:
            with self._lock:
                self._busy -= 1

    def _plain(
        self, handler: BaseHTTPRequestHandler, asked: Asked, status: int, headers: dict[str, str]
    ) -> None:
        asked.status = status
        handler.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()

    def _page(self, handler: BaseHTTPRequestHandler, asked: Asked, page: Page) -> None:
        time.sleep(page.delay)
        if page.answers:
            status, headers = page.answers.pop(0)
            if status == 0:
                handler.close_connection = True  # no answer at all
                return
            self._plain(handler, asked, status, headers)
            return
        body = page.body
        if page.wrong:
            page.wrong -= 1
            body = bytes(255 - b for b in body[:64]) + body[64:]
        start, status = self._start(asked, page)
        if start > 0 and start >= len(body):
            self._plain(handler, asked, 416, {"Content-Range": f"bytes */{len(body)}"})
            return
        asked.status = status
        handler.send_response(status)
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if page.without_length:
            handler.send_header("Connection", "close")
            handler.close_connection = True
        else:
            handler.send_header("Content-Length", str(len(body) - start + page.claim))
        for name, value in self._headers(page).items():
            handler.send_header(name, value)
        handler.end_headers()
        self._send(handler, asked, page, body[start:])

    def _headers(self, page: Page) -> dict[str, str]:
        known = {"ETag": page.etag, "Last-Modified": page.modified}
        return {**{name: value for name, value in known.items() if value}, **page.headers}

    def _start(self, asked: Asked, page: Page) -> tuple[int, int]:
        if not asked.range or not page.ranges:
            return 0, 200
        condition = asked.headers.get("If-Range")
        if condition is not None and condition not in {page.etag, page.modified}:
            return 0, 200
        return int(asked.range.removeprefix("bytes=").removesuffix("-")), 206

    def _send(self, handler: BaseHTTPRequestHandler, asked: Asked, page: Page, body: bytes) -> None:
        limit = page.drop_after.pop(0) if page.drop_after else len(body)
        view = memoryview(body)[:limit]
        for i in range(0, len(view), 65_536):
            piece = view[i : i + 65_536]
            asked.sent += len(piece)
            handler.wfile.write(piece)
            if page.hold is not None and asked.sent >= page.hold_after:
                page.hold.wait(10)
            if page.pause:
                time.sleep(page.pause)
        if limit < len(body) or page.claim > 0:
            handler.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of this test only."""
    started = Server()
    yield started
    started.close()


@pytest.fixture
def quick(tmp_path: Path) -> TransferSettings:
    """Patience for a server next door."""
    return TransferSettings(
        retries=3,
        backoff=0.001,
        longest_wait=2.0,
        connect_timeout=2.0,
        read_timeout=2.0,
        per_host=8,
        cache=tmp_path / "cache",
    )
