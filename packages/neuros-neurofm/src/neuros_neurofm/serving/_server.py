"""A server process that answers what it has before it stops."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import torch

from neuros_neurofm.serving._extra import FastAPI, Multiprocess, uvicorn
from neuros_neurofm.serving._service import Service
from neuros_neurofm.serving.app import create_app
from neuros_neurofm.serving.limits import ServingLimits
from neuros_neurofm.training._run_folder import load_model

__all__: list[str] = []

_STREAM_QUEUE = 8
# A worker that imports torch on a busy machine is silent for longer than uvicorn's 5 s.
_HEALTHCHECK_S = 60


class DrainingServer(uvicorn.Server):
    """A uvicorn server that reports not ready while it stops, and then exits with 0.

    Args:
        config: The configuration of uvicorn.
        service: Is told that the process drains.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals, and do not raise them again after the shutdown: that would not be 0."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Report not ready from this moment on."""
        self._service.draining = True
        super().handle_exit(sig, frame)


def load_app(model: str, device: str, limits: ServingLimits) -> FastAPI:
    """The application of the model in a folder."""
    saved = load_model(model, adds_linear=True)
    return create_app(saved.model.to(torch.device(device)), limits, linear=saved.linear)


def run_worker(
    model: str, device: str, limits: ServingLimits, sockets: list[socket.socket]
) -> None:
    """Load the model and serve it in this process until it is told to stop."""
    app = load_app(model, device, limits)
    DrainingServer(configured(app, limits), app.state.service).run(sockets)


def configured(
    app: Callable[..., Any], limits: ServingLimits, *, workers: int = 1
) -> uvicorn.Config:
    """How uvicorn serves: a slow reader of a stream fills its queue, and then has to wait."""
    return uvicorn.Config(
        app,
        factory=workers > 1,
        workers=workers,
        timeout_worker_healthcheck=_HEALTHCHECK_S,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=int(limits.timeout) + 2,
        ws_max_size=limits.max_body,
        ws_max_queue=_STREAM_QUEUE,
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(True)
    return listener


def supervise(
    workers: int, model: str, device: str, limits: ServingLimits, listener: socket.socket
) -> None:
    """Serve with several processes on one socket; one that dies is replaced."""
    factory = partial(load_app, model, device, limits)
    Multiprocess(configured(factory, limits, workers=workers), sockets=[listener]).run()
