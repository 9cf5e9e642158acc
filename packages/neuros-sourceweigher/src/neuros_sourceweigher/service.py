"""Weights over HTTP: an ASGI application that gives the same bits as the library.

`create_app()` builds the application and `app`, for ASGI servers, is one with the settings of the
environment. `neuros-sourceweigher serve` runs it with an orderly shutdown, workers and logs.
"""

import contextlib
import sys
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

try:
    import orjson
    from fastapi import FastAPI
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from neuros_sourceweigher._service.frame import Frame
    from neuros_sourceweigher._service.metrics import CONTENT_TYPE
    from neuros_sourceweigher._service.operation import Operation
    from neuros_sourceweigher._service.options import (
        CLASS_TABLE,
        DEFAULT_METHOD,
        TABLES,
    )
    from neuros_sourceweigher._service.problem import ProblemError, retry_after
    from neuros_sourceweigher._service.schema import describe
    from neuros_sourceweigher._service.settings import ServiceSettings, load_settings
    from neuros_sourceweigher._service.state import ServiceState
    from neuros_sourceweigher._service.work import CLASS_NAME, OPERATIONS, read_task
    from neuros_sourceweigher._service.work import Request as Body
except ImportError as error:
    raise ImportError(
        "neuros_sourceweigher.service needs its extra: pip install 'neuros-sourceweigher[service]'"
    ) from error

__all__ = ["ServiceSettings", "create_app"]

_WARM_UP = (
    b'{"sources": [{"name": "a", "n": 9, "mean": [0.0], "cov": [[1.0]]},'
    b' {"name": "b", "n": 9, "mean": [4.0], "cov": [[1.0]]}],'
    b' "target": {"name": "t", "n": 9, "mean": [1.0], "cov": [[4.0]]}}'
)


class _App(FastAPI):
    """FastAPI with the description of the bodies that the routes read themselves."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None:
            self.openapi_schema = describe(self.state.service.settings, OPERATIONS)
        return self.openapi_schema


def create_app(settings: ServiceSettings | None = None) -> FastAPI:
    """Build the application.

    Args:
        settings: What it accepts and refuses; read from the environment when None.

    Returns:
        An ASGI application; `app.state.service` holds its settings and metrics.

    Raises:
        ValueError: For a bad value in the environment, in one line.

    Examples:
        >>> app = create_app(ServiceSettings(max_sources=50))
        >>> sorted(app.openapi()["paths"])[:3]
        ['/healthz', '/metrics', '/readyz']
    """
    settings = load_settings() if settings is None else settings
    state = ServiceState(settings, _PATHS)
    routes = [Route(p, Operation(r, state), methods=["POST"]) for p, r in OPERATIONS.items()]
    routes += [Route(path, endpoint) for path, endpoint in _ENDPOINTS.items()]

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.open()
        warm_up(state)
        yield
        state.draining = True
        state.pool.close()

    app = _App(
        title="neuros-sourceweigher",
        version=version("neuros-sourceweigher"),
        routes=list(routes),
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        middleware=[Middleware(Frame, state=state)],
        exception_handlers={HTTPException: _refuse_route},
        lifespan=lifespan,
    )
    app.state.service = state
    return app


def warm_up(state: ServiceState) -> None:
    """Solve one small problem, after which the process is ready."""
    request = Body(_WARM_UP, "application/json", "application/json")
    read_task(OPERATIONS["/v1/weights"], request, state.settings).run()
    state.warm = True


async def _refuse_route(_: Request, error: HTTPException) -> Response:
    """Turn the router's 404 and 405 into problems."""
    headers = [(k.lower().encode(), v.encode()) for k, v in (error.headers or {}).items()]
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid")
    raise ProblemError(error.status_code, code, f"{error.detail}", headers=headers)


async def _health(_: Request) -> Response:
    return _json({"status": "ok"})


async def _readiness(request: Request) -> Response:
    state: ServiceState = request.app.state.service
    if state.draining:
        detail = "the process finishes what it has and takes no more"
        raise ProblemError(503, "draining", detail, headers=[retry_after(1)])
    if not state.warm:
        detail = "the first problem is not solved yet"
        raise ProblemError(503, "starting", detail, headers=[retry_after(1)])
    state.pool.check_room()
    return _json({"status": "ready"})


async def _methods(_: Request) -> Response:
    methods = {
        name: {option: entry.schema() for option, entry in table.items()}
        for name, table in TABLES.items()
    }
    by_class = {CLASS_NAME: {o: e.schema() for o, e in CLASS_TABLE.items()}} if CLASS_TABLE else {}
    return _json({"default": DEFAULT_METHOD, "methods": methods, "class_methods": by_class})


async def _version(_: Request) -> Response:
    names = ("neuros-sourceweigher", "neuros-core", "numpy", "scipy")
    return _json({name: version(name) for name in names})


async def _metrics(request: Request) -> Response:
    state: ServiceState = request.app.state.service
    return Response(state.metrics.exposition(), headers={"content-type": CONTENT_TYPE})


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


_ENDPOINTS = {
    "/healthz": _health,
    "/readyz": _readiness,
    "/metrics": _metrics,
    "/version": _version,
    "/v1/methods": _methods,
}
_PATHS = {*OPERATIONS, *_ENDPOINTS, "/openapi.json", "/docs"}


def __getattr__(name: str) -> Any:
    """Build `app` when an ASGI server asks for it: importing this module reads no environment."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        application = globals()["app"] = create_app()
    except ValueError as error:
        sys.stderr.write(f"neuros-sourceweigher: {error}\n")
        raise SystemExit(2) from None
    return application
