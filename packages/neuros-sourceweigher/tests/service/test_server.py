"""The draining server and the supervisor, in this process."""

import functools
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="the extra [service] is not installed")
pytest.importorskip("httpx", reason="the extra [client] is not installed")

import httpx
import uvicorn

from neuros_sourceweigher._service.logs import JsonLines
from neuros_sourceweigher._service.server import DrainingServer, _listen, serve
from neuros_sourceweigher._service.workers import supervise
from neuros_sourceweigher.service import ServiceSettings, create_app


def test_a_draining_server_answers_until_it_closes():
    app = create_app(ServiceSettings(drain_s=0.3))
    config = uvicorn.Config(app, log_config=None, lifespan="on")
    server = DrainingServer(config, app.state.service)
    listener = _listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    assert httpx.get(f"{url}/readyz").status_code == 200
    server.handle_exit(signal.SIGTERM, None)
    assert httpx.get(f"{url}/readyz").json()["code"] == "draining"
    assert httpx.post(f"{url}/v1/project", json={"v": [1.0]}).status_code == 200
    thread.join(20)
    assert not thread.is_alive()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_answers_are_not_held_back_for_acknowledgements():
    with (
        _listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        # asyncio switches off Nagle's algorithm only for sockets of this protocol.
        assert accepted.proto == socket.IPPROTO_TCP


def test_an_address_in_use_is_an_error_of_the_operating_system():
    with _listen("127.0.0.1", 0) as first, pytest.raises(OSError, match="in use"):
        _listen("127.0.0.1", first.getsockname()[1])


@pytest.fixture
def handlers():
    """The signal handlers of this process are there again after the test."""
    kept = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    yield
    for name, handler in kept.items():
        signal.signal(name, handler)


@pytest.fixture
def root_log():
    """The handlers of the root logger are there again after the test."""
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    # What is configured in between must not close the handlers of pytest.
    root.handlers.clear()
    yield
    root.handlers[:], root.level = kept, level


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to end a process in order")
def test_serve_ends_in_order_and_logs_what_it_did(handlers, root_log, capsys):
    with _listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]

    def stop():
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/healthz")
            except httpx.TransportError:
                time.sleep(0.02)
            else:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    assert serve(ServiceSettings(port=port, log_json=False)) == 0
    thread.join(20)
    lines = capsys.readouterr().err.splitlines()
    assert f"info listening host=127.0.0.1 port={port} workers=1" in lines[0]
    assert any("info request request_id=" in line and "status=200" in line for line in lines)
    assert any("info draining" in line for line in lines)


# Worker processes start fresh interpreters.
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to end a process in order")
def test_a_dead_worker_is_replaced_until_the_end(handlers, monkeypatch, caplog):
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    seen = []

    def alive():
        return {child.pid for child in multiprocessing.active_children()}

    def disturb():
        while len(alive()) < 2:
            time.sleep(0.02)
        seen.append(alive())
        os.kill(min(seen[0]), signal.SIGKILL)
        while len(alive()) < 2 or min(seen[0]) in alive():
            time.sleep(0.02)
        seen.append(alive())
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    work = functools.partial(time.sleep, 60)
    assert supervise(work, 2, multiprocessing.get_context("spawn")) == 0
    thread.join(20)
    assert len(seen[0] & seen[1]) == 1
    assert not alive()
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
    (record,) = [r for r in caplog.records if "replaced" in r.getMessage()]
    assert f'"pid":{min(seen[0])}' in JsonLines().format(record)
