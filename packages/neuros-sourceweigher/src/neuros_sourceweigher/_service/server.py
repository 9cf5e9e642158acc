"""A server process that loses no request when it is told to stop."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import get_context, parent_process
from types import FrameType

import uvicorn

from neuros_sourceweigher._service.logs import configure
from neuros_sourceweigher._service.settings import ServiceSettings
from neuros_sourceweigher._service.state import ServiceState
from neuros_sourceweigher._service.workers import supervise

__all__: list[str] = []

# Connections that were accepted a moment ago get this long to send their request.
_SETTLE_S = 0.25
_BACKLOG = 2048
_log = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """A uvicorn server that drains before it closes, and then exits with 0.

    Args:
        config: The configuration of uvicorn.
        state: Is told that the process drains.
    """

    def __init__(self, config: uvicorn.Config, state: ServiceState) -> None:
        super().__init__(config)
        self._state = state

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals, and do not raise them again after the shutdown: that would not be 0."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Report not ready from this moment on."""
        self._state.draining = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept for `drain_s` more, then answer what has come in, then close."""
        _log.info("draining")
        end = time.monotonic() + self._state.settings.drain_s
        while time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(0.1)
            await self.on_tick(0)
        # One turn of the loop accepts all connections that wait at the sockets.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        await asyncio.sleep(_SETTLE_S)
        await super().shutdown(sockets)


def run_worker(settings: ServiceSettings, sockets: list[socket.socket]) -> int:
    """Serve in this process until it is told to stop; return the exit status."""
    from neuros_sourceweigher.service import create_app

    configure(log_json=settings.log_json)
    app = create_app(settings)
    state: ServiceState = app.state.service
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=int(settings.request_timeout_s) + 2,
        backlog=_BACKLOG,
    )
    server = DrainingServer(config, state)
    server.run(sockets)
    if state.pool.running:
        # The interpreter would wait for a solve that nobody waits for any more.
        logging.shutdown()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _work(settings: ServiceSettings, sockets: list[socket.socket]) -> None:
    """Serve as one of several workers, and stop when the supervisor is gone."""

    def follow() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    run_worker(settings, sockets)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Its protocol is named: asyncio switches off Nagle's algorithm, which with delayed
    acknowledgements holds every answer up for 40 ms, only where it is.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # From now on connections wait for the application instead of being refused.
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(True)
    return listener


def serve(settings: ServiceSettings, *, workers: int = 1) -> int:
    """Listen and serve until SIGTERM or SIGINT.

    Args:
        settings: What to listen on, accept and refuse.
        workers: Processes that share the socket; one that dies is replaced.

    Returns:
        The exit status, 0 after an orderly stop.

    Raises:
        OSError: When the address cannot be listened on.
    """
    # As process 1 of a container, a process without a handler never gets the signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    configure(log_json=settings.log_json)
    listener = _listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    fields = {"host": host, "port": port, "workers": workers}
    _log.info("listening", extra={"fields": fields})
    if workers == 1:
        return run_worker(settings, [listener])
    work = functools.partial(_work, settings, [listener])
    # The workers have the socket too: what still comes in is theirs alone.
    return supervise(work, workers, get_context("spawn"), stopping=listener.close)
