"""The parts of the HTTP service; `neuros_sourceweigher.service` puts them together."""

from importlib import import_module

_NEEDED = ("fastapi", "msgpack", "orjson", "prometheus_client", "pydantic_settings", "uvicorn")

try:
    for _name in _NEEDED:
        import_module(_name)
except ImportError as error:
    raise ImportError(
        "neuros_sourceweigher.service needs its extra: pip install 'neuros-sourceweigher[service]'"
    ) from error
